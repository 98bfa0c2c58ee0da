"""The one place where a failing observer becomes a warning.

Owns the rule that watching a run never ends it. Refuses to guard the run's own records
(metrics.jsonl, rollouts/): losing those silently would be worse than stopping. Invariant:
whatever goes wrong inside costs exactly one warning, with its cause in the log.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

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
