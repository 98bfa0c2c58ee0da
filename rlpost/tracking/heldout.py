"""The held-out result of a run, read from its metrics.

Owns the reading of rows and the words for a result. Refuses to own which metrics are results
(control/result_metrics.py) and when anything is evaluated. Invariant: a result that was not
measured is absent, never 0.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from rlpost.control.result_metrics import ACCURACY, KINDS, HeldoutKind, lowest_is_best

_GRADED = re.compile(r"val-core/.+/graded_frac")


@dataclass(frozen=True, kw_only=True)
class HeldoutResult:
    """What one evaluation reached: the value over all sources, or else the mean of theirs."""

    kind: HeldoutKind
    value: float


@dataclass(frozen=True, kw_only=True)
class Reached:
    """The last value of a metric, and whether a low one is good (None: nobody knows)."""

    value: float
    lowest_is_best: bool | None


def heldout_result(metrics: Mapping[str, Any]) -> HeldoutResult | None:
    """Return the held-out result in a row of metrics; None without any.

    Of several kinds the first of ``KINDS`` counts, because it is what the others stand for.
    """
    for kind in KINDS:
        whole: list[float] = []
        parts: list[float] = []
        for name, value in metrics.items():
            match = kind.pattern.fullmatch(name)
            if match and value is not None:
                (parts if match["source"] else whole).append(value)
        values = whole or parts
        if values:
            return HeldoutResult(kind=kind, value=sum(values) / len(values))
    return None


def is_graded(metrics: Mapping[str, float | None]) -> bool:
    """Return whether held-out responses of a row got rewards other than 0 and 1.

    The mean of such rewards is not an accuracy, although the name of its metric says so.
    """
    shares = (value for name, value in metrics.items() if _GRADED.fullmatch(name))
    means = (value for name, value in metrics.items() if ACCURACY.pattern.fullmatch(name))
    return any(share for share in shares) or any(
        mean is not None and not 0 <= mean <= 1 for mean in means
    )


def heldout_words(kind: HeldoutKind, *, graded: bool) -> str:
    """Return what to call a result in front of a person."""
    return "held-out reward" if graded and kind is ACCURACY else kind.words


def heldout_change(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the results of the first and the last evaluation as text, None without any.

    Example: ``"held-out accuracy 0.111 at step 0, 0.889 at step 14"``
    """
    found = [(row["step"], result) for row in rows if (result := heldout_result(row)) is not None]
    if not found:
        return None
    ends = [found[0], found[-1]] if len(found) > 1 else found
    said = ", ".join(f"{result.value:.3f} at step {step}" for step, result in ends)
    words = heldout_words(found[-1][1].kind, graded=any(map(is_graded, rows)))
    return f"{words} {said}"


def last_reached(rows: Iterable[Mapping[str, Any]], metric: str | None) -> Reached | None:
    """Return the last finite value of ``metric``, or of the held-out result where it is None."""
    last = None
    for row in rows:
        if metric is not None:
            value, lowest = row.get(metric), lowest_is_best(metric)
        elif (result := heldout_result(row)) is not None:
            value, lowest = result.value, result.kind.lowest_is_best
        else:
            continue
        if value is not None and isfinite(value):
            last = Reached(value=float(value), lowest_is_best=lowest)
    return last
