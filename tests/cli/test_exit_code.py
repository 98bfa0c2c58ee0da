"""How commands end: in words where the reason is known, loudly where it is not."""

import errno

import pytest

from rlpost.cli.exit_code import exit_code
from rlpost.errors import InfrastructureError, RunFailed, UserError


def _raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("trainer.lr must be positive"), 2, "error: trainer.lr must be positive"),
        (RunFailed("no progress"), 1, "error: the run failed: no progress"),
        (InfrastructureError("no link"), 1, "error: the run failed: no link"),
        (OSError(errno.ENOSPC, "No space left on device", "/d/f"), 1, "error: /d/f: No space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1, "error: a file of this command: Disk"),
        (PermissionError(errno.EACCES, "Permission denied", "/d/f"), 2, "error: /d/f: Permission"),
        (OSError(errno.EROFS, "Read-only file system", "/d/f"), 2, "error: /d/f: Read-only"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_known_reasons_are_said_without_a_traceback(error, code, words, capfd):
    assert exit_code(_raising(error)) == code
    shown = capfd.readouterr().err
    assert shown.startswith(words) and "Traceback" not in shown


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), OSError(errno.EIO, "I/O error")])
def test_other_errors_are_loud(error, capfd):
    assert exit_code(_raising(error)) == 1
    assert "Traceback" in capfd.readouterr().err
