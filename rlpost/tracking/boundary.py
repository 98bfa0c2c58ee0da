"""What a failing disk, network or library costs a run: a warning, or an end in words.

Owns the rule that watching a run never ends it, and the one that a run does not go on without
its own records (metrics.jsonl, rollouts/): losing those silently would be worse than stopping.
Invariants: whatever an observer gets wrong costs exactly one warning, with its cause in the
log; what the disk refuses of a record ends the run with a sentence and no traceback.
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
        RunFailed: the disk refuses.

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
