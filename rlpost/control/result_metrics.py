"""Which metrics are held-out results, and which end of a metric is good.

Owns the names. Refuses to own the reading of rows (tracking/heldout.py) and what is decided by
them (best.py, early_stopping.py). Pure.
"""

import re
from dataclasses import dataclass
from enum import Enum

from rlpost.errors import UserError

# Words in names of metrics of which a low, or a high, value is good.
_LOW = {"loss", "nll", "perplexity", "ppl", "error", "rate", "kl"}
_HIGH = {"acc", "accuracy", "accuracies", "reward", "rewards", "score", "margins", "throughput"}


class BestMode(Enum):
    """Which end of a metric is good."""

    max = "max"
    min = "min"


@dataclass(frozen=True, kw_only=True)
class HeldoutKind:
    """One kind of result; ``pattern`` matches its metric, of one source or over all of them."""

    words: str
    pattern: re.Pattern[str]
    lowest_is_best: bool


ACCURACY = HeldoutKind(
    words="held-out accuracy",
    pattern=re.compile(r"val-core/(?P<source>.+)/acc/mean@\d+"),
    lowest_is_best=False,
)
KINDS = (
    ACCURACY,
    HeldoutKind(
        words="held-out accuracy of judgements",
        pattern=re.compile(r"reward/heldout_(?:step_)?accuracy(?:/(?P<source>.+))?"),
        lowest_is_best=False,
    ),
    HeldoutKind(
        words="held-out loss",
        pattern=re.compile(r"\w+/heldout_loss(?:/(?P<source>.+))?"),
        lowest_is_best=True,
    ),
    HeldoutKind(
        words="held-out perplexity",
        pattern=re.compile(r"\w+/heldout_perplexity(?:/(?P<source>.+))?"),
        lowest_is_best=True,
    ),
)


def kind_of(metric: str) -> HeldoutKind | None:
    """Return the kind of result that ``metric`` is; None: it is no held-out result."""
    return next((kind for kind in KINDS if kind.pattern.fullmatch(metric)), None)


def lowest_is_best(metric: str) -> bool | None:
    """Return whether a low value of ``metric`` is good; None: its name does not tell."""
    if (kind := kind_of(metric)) is not None:
        return kind.lowest_is_best
    own = metric.partition("/heldout_")[2] or metric  # a stage's name says nothing of it
    words = set(re.split(r"[^a-z]+", own.lower()))
    low, high = bool(words & _LOW), bool(words & _HIGH)
    return None if low == high else low


def wants_low(metric: str, mode: BestMode | None, *, field: str) -> bool:
    """Return whether a low value of ``metric`` is good, by ``mode`` or else by the name.

    Raises:
        UserError: neither tells; names ``field``, where the mode is configured.
    """
    if mode is not None:
        return mode is BestMode.min
    lowest = lowest_is_best(metric)
    if lowest is None:
        raise UserError(
            f"{field} must be max or min for the metric {metric}, whose name does not tell which "
            "end is good"
        )
    return lowest
