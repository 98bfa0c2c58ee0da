"""How a run reacts when recording fails: with a warning, or by ending.

Owns two rules. A failure to report on the run (W&B, the console, the report) never ends it. A
failure to write the run's own records (metrics.jsonl, rollouts/) ends it, because losing them
silently would be worse. Invariants: a failed report gives exactly one warning, with its cause in
the log; a record that cannot be written ends the run with one sentence and no traceback.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rlpost.errors import RunFailed

logger = logging.getLogger(__name__)
T = TypeVar("T")


def attempt(what: str, call: Callable[[], T]) -> T | None:
    """Return what ``call`` returns, or None after a warning that says ``what`` failed.

    Example: ``attempt("the W&B log of step 3", lambda: run.log(row))``
    """
    try:
        return call()
    except Exception as error:  # the boundary: foreign code, disks, networks
        text = str(error).strip() or "no message"
        logger.warning("%s failed: %s: %s; the run goes on", what, type(error).__name__, text)
        logger.debug("traceback of the failure above", exc_info=error)
        return None


@contextmanager
def own_record(path: Path) -> Iterator[None]:
    """Write a record of the run itself.

    Raises:
        RunFailed: the write fails.

    Example::

        with own_record(path):
            write_text(path, lines)
    """
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"{path} cannot be written ({error.strerror or error}), and a run does not go on "
            "without its own record; make room there, then run the same command again: it goes "
            "on from the last checkpoint"
        ) from error
