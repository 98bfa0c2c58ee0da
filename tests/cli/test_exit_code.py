"""How commands end: in words where the reason is known, loudly where it is not."""

import contextlib
import errno
import os
import signal

import pytest

from rlpost import stop_signals
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


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in stop_signals.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", stop_signals.SIGNALS)
def test_a_signal_before_anything_runs_is_an_interruption(number, handlers, capfd):
    def command():
        os.kill(os.getpid(), number)

    assert exit_code(command) == 130
    os.kill(os.getpid(), number)  # a second one while the process ends: nothing is left to stop
    assert capfd.readouterr().err.startswith("error: interrupted")


def test_a_library_that_catches_everything_cannot_hide_a_signal(handlers, capfd):
    def imported():
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGINT)

    def misled():
        imported()
        raise UserError("model.path: there is no module LlamaConfig")

    def went_on():
        imported()
        stop_signals.heed()
        raise AssertionError("it would start a run")

    def nested():
        imported()
        return exit_code(went_on)  # as the command of a stage within hydra's

    assert exit_code(misled) == 130 and exit_code(went_on) == 130 and exit_code(nested) == 130
    assert "LlamaConfig" not in capfd.readouterr().err
    assert exit_code(lambda: 0) == 0 and not stop_signals.came()  # the next command begins anew
