"""Failures of a command -> one paragraph and an exit code.

Owns the only place where any exception is caught. Invariants: what the user can fix is said
without a traceback and exits 2; a full disk and a run that ended for a known reason are said
without one and exit 1, and run.log has the details; everything else is loud and exits 1.
"""

import errno
import os
import textwrap
from collections.abc import Callable

from rlpost import stop_signals
from rlpost.disk import FULL
from rlpost.errors import InfrastructureError, RunFailed, UserError

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def exit_code(command: Callable[[], int], *, stage: str | None = None) -> int:
    """Run ``command`` and return its exit code, or the code of its failure.

    ``stage`` is whose options the command reads, if it reads any.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hydra would swallow the exception and exit 1
    with stop_signals.raising():
        try:
            return command()
        except KeyboardInterrupt:
            return _interrupted()
        except Exception as error:  # noqa: BLE001 - loud, and a sweep's other members still run
            # Whoever is interrupted while it imports may call what it imported missing.
            return _interrupted() if stop_signals.came() else _failed(error, stage)


def _interrupted() -> int:
    return _say("interrupted; what was saved is kept, and the same command goes on", 130)


def _failed(error: Exception, stage: str | None) -> int:
    """Say what may be the user's fault or the disk's; anything else is shown with its traceback."""
    from rlpost.config.explain import COMPOSITION_ERRORS, explain

    if isinstance(error, UserError):
        return _say(str(error), 2)
    if isinstance(error, RunFailed | InfrastructureError):
        return _say(f"the run failed: {error}", 1)
    if stage is not None and isinstance(error, COMPOSITION_ERRORS):
        return _say(explain(error, stage=stage), 2)
    if isinstance(error, OSError) and error.errno in FULL:
        return _say(f"{_place(error)}: {error.strerror}; make room there, or use another disk", 1)
    if isinstance(error, OSError) and error.errno in _FORBIDDEN:
        return _say(f"{_place(error)}: {error.strerror}; choose a place you may write to", 2)
    return _traceback()


def _place(error: OSError) -> str:
    return str(error.filename) if error.filename else "a file of this command"


def _traceback() -> int:
    from rich.console import Console

    Console(stderr=True).print_exception(width=100)
    return 1


def _say(message: str, code: int) -> int:
    from rich.console import Console
    from rich.text import Text

    style = "bold red" if code != 130 else "bold yellow"
    text = textwrap.fill(message, width=100, break_long_words=False, break_on_hyphens=False)
    console = Console(stderr=True, highlight=False)
    console.print(Text.assemble(("error: ", style), text), soft_wrap=True)
    return code
