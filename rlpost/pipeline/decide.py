"""Whether a gate passes: an interval of ``left - right``, and the decision that follows from it.

Owns the decision. Refuses to own the grammar (gate.py) and the draws (evaluation/comparison.py).
Pure. Invariants: all models of a suite are compared on the same resampled items; the same seed
gives the same decision; numbers that a stage reports have no uncertainty.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product

import numpy as np

from rlpost.evaluation.comparison import (
    ROUNDING,
    ByItem,
    are_shares,
    percentile_interval,
    require_paired,
    resampled_means,
)
from rlpost.pipeline.gate import Delta, Gate, Measured, Number, Operation, Score, Term


class GateVerdict(Enum):
    """What a gate says of a stage."""

    passed = "pass"
    failed = "fail"
    undecided = "undecided"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A gate with its numbers; ``low`` and ``high`` are of ``left - right``.

    Example: ``Decision(gate="delta(general) >= -0.02", left=-0.01, right=-0.02, low=-0.005,
    high=0.03, verdict=GateVerdict.undecided)``
    """

    gate: str
    left: float | None  # None: nothing that it compares is known
    right: float | None
    low: float | None
    high: float | None
    verdict: GateVerdict

    def __str__(self) -> str:
        if self.left is None or self.right is None:
            return f"{self.verdict.value}: {self.gate} (nothing was judged)"
        return (
            f"{self.verdict.value}: {self.gate} ({self.left:.4g} against {self.right:.4g}; "
            f"difference {self.left - self.right:+.4g}, interval {self.low:+.4g} to "
            f"{self.high:+.4g})"
        )


Models = Mapping[tuple[str, str], ByItem]  # (suite, stage) -> the values of each item


def decide(
    gate: Gate,
    *,
    own: str,
    start: str,
    scores: Models,
    measured: Mapping[str, float],
    confidence: float,
    seed: int,
) -> Decision:
    """Decide a gate.

    It passes if the whole interval of ``left - right`` satisfies the comparison, fails if none of
    it does, and is undecided in between. Where no value of a suite is known of all models, it
    fails: nothing speaks for the stage.

    Args:
        gate: what is asked.
        own: the stage that has the gate.
        start: what that stage starts from.
        scores: the values of every model and suite that the gate names.
        measured: the numbers that the stage reports.
        confidence: of the interval.
        seed: of the resamples.

    Raises:
        UserError: two models answered other items of a suite, or other numbers of samples.
    """
    exact: dict[tuple[str, str], float] = {}
    drawn: dict[tuple[str, str], np.ndarray] = {}
    num_items: list[int] = []  # of each suite
    for place, suite in enumerate(sorted(gate.suites())):
        models = sorted(_models(gate, suite, own=own, start=start))
        found = _means([scores[suite, each] for each in models], seed=seed + place)
        if found is None:
            return Decision(
                gate=gate.text,
                left=None,
                right=None,
                low=None,
                high=None,
                verdict=GateVerdict.failed,
            )
        num_items.append(found[2])
        for model, mean, means_B in zip(models, *found[:2], strict=True):
            exact[suite, model], drawn[suite, model] = mean, means_B
    reader = _Values(own=own, start=start, measured=measured)
    left, right = (float(reader.of(term, exact)) for term in (gate.left, gate.right))
    low = high = left - right
    if drawn:
        gap_B = np.asarray(reader.of(gate.left, drawn)) - np.asarray(reader.of(gate.right, drawn))
        shares = all(are_shares(scores[each]) for each in drawn)
        low, high = percentile_interval(
            np.atleast_1d(gap_B),
            confidence=confidence,
            num_items=min(num_items),
            ends=_ends(gate, reader, list(drawn)) if shares else None,
        )
    return Decision(
        gate=gate.text,
        left=left,
        right=right,
        low=low,
        high=high,
        verdict=_verdict(gate.comparison, low, high),
    )


def _models(gate: Gate, suite: str, *, own: str, start: str) -> set[str]:
    found: set[str] = set()
    for each in gate.leaves():
        if isinstance(each, Delta) and each.suite == suite:
            found |= {own, start}
        elif isinstance(each, Score) and each.suite == suite:
            found.add(each.stage or own)
    return found


def _ends(gate: Gate, reader: "_Values", models: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """Return the least and the largest ``left - right`` if every model solves all or nothing."""
    corners_MC = np.array(list(product((0.0, 1.0), repeat=len(models)))).T
    corners = dict(zip(models, corners_MC, strict=True))
    gap_C = np.asarray(reader.of(gate.left, corners)) - np.asarray(reader.of(gate.right, corners))
    return float(gap_C.min()), float(gap_C.max())


def _means(models: Sequence[ByItem], *, seed: int) -> tuple[list[float], np.ndarray, int] | None:
    """Return each model's mean, its resampled means, and the number of items.

    None: no value is known of all models. A value is used if that of the same item and sample is
    known of every model.
    """
    first, *others = models
    for each in others:
        require_paired(first, each)
    sums: list[list[float]] = []
    sizes: list[int] = []
    for item in first:
        samples = zip(*(model[item] for model in models), strict=True)
        known = [row for row in samples if None not in row]
        if known:
            sums.append([math.fsum(column) for column in zip(*known, strict=True)])
            sizes.append(len(known))
    if not sums:
        return None
    sums_MI, sizes_I = np.array(sums).T, np.array(sizes)
    means = [math.fsum(row) / int(sizes_I.sum()) for row in sums_MI]
    return means, resampled_means(sums_MI, sizes_I, seed=seed), len(sizes)


@dataclass(frozen=True, kw_only=True)
class _Values:
    """Works out a term, from numbers or from arrays of resamples."""

    own: str
    start: str
    measured: Mapping[str, float]

    def of(
        self, term: Term, scores: Mapping[tuple[str, str], "float | np.ndarray"]
    ) -> "float | np.ndarray":
        match term:
            case Number(value):
                return value
            case Score(suite, stage):
                return scores[suite, stage or self.own]
            case Delta(suite):
                return scores[suite, self.own] - scores[suite, self.start]
            case Measured(name):
                return self.measured[name]
            case Operation(operator, left, right):
                one, other = self.of(left, scores), self.of(right, scores)
                if operator == "+":
                    return one + other
                return one - other if operator == "-" else one * other
        raise AssertionError(term)


def _verdict(comparison: str, low: float, high: float) -> GateVerdict:
    """Compare the interval of ``left - right`` with 0."""
    if comparison in ("<", "<="):
        comparison, low, high = comparison.replace("<", ">"), -high, -low
    if comparison == "==":
        holds, fails = abs(low) <= ROUNDING >= abs(high), low > ROUNDING or high < -ROUNDING
    elif comparison == ">=":
        holds, fails = low >= -ROUNDING, high < -ROUNDING
    else:
        holds, fails = low > ROUNDING, high <= ROUNDING
    if holds:
        return GateVerdict.passed
    return GateVerdict.failed if fails else GateVerdict.undecided
