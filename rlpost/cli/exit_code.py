"""Failures of a command -> one paragraph and an exit code.

Owns the only place where any exception is caught. Invariants: what the user can fix is said
without a traceback and exits 2; a full disk and a run that ended for a known reason are said
without one and exit 1, and run.log has the details; everything else is loud and exits 1.
"""

import errno
import os
import textwrap
from collections.abc import Callable

from rlpost.disk import FULL
from rlpost.errors import InfrastructureError, RunFailed, UserError

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def exit_code(command: Callable[[], int], *, stage: str | None = None) -> int:
    """Run ``command`` and return its exit code, or the code of its failure.

    ``stage`` is whose options the command reads, if it reads any.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hydra would swallow the exception and exit 1
    try:
        return command()
    except UserError as error:
        return _say(str(error), 2)
    except (RunFailed, InfrastructureError) as error:
        return _say(f"the run failed: {error}", 1)
    except Exception as error:  # noqa: BLE001 - loud, and a sweep's other members still run
        return _other(error, stage)
    except KeyboardInterrupt:
        return _say("interrupted before anything could be saved", 130)


def _other(error: Exception, stage: str | None) -> int:
    """Say what may be the user's fault or the disk's; anything else is shown with its traceback."""
    from rlpost.config.explain import COMPOSITION_ERRORS, explain

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
