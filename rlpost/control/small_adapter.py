"""The sign that an adapter is too small, or on too few layers, for what its data asks.

Owns the rules and the explanation. It reads what a run with ``adapter.diagnose_every`` measures of
its adapter (training/adapters/gradient_energy.py). Invariants: nothing is said of an adapter that
has not learned yet, nor of gradients that are noise; two measurements must agree. Pure.

The thresholds. An adapter of a low rank follows a small share of any large gradient, also where it
learns well. But a gradient that has nothing to do with it has the share ``reach`` of its energy in
the adapter's directions, by chance; less than that is left when the adapter has gone as far as it
can in all of them. If two halves of the rows still agree then on what they ask for, more directions
are what is missing. ``AGREES``: below this cosine they do not, and the rest is an estimate from
noise. ``USED``: an adapter whose updates have less than half of the rank that they could have has
directions to spare; its rate or its time is too small. ``FULL``: an adapter that can follow half of
all directions costs what full training costs, which is the better answer then. ``MOST``: more than
half of what linear layers are asked for is asked of those without an adapter.
"""

from collections import deque

from rlpost.control.sign import Metrics, Sign, SignKind, number, steps_of

AGREES = 0.2
MOST = 0.5
USED = 0.5
FULL = 0.5
_OUTSIDE, _ELSEWHERE = "adapter/gradient_outside_agreed", "adapter/gradient_unadapted"
_AGREEMENT, _USED, _REACH = (
    "adapter/gradient_agreement",
    "adapter/update_rank_used",
    "adapter/reach",
)


class SmallAdapter:
    """Reads rows of metrics in the order of steps; ``now`` says what the latest ones show."""

    def __init__(self) -> None:
        self._latest: deque[Metrics] = deque(maxlen=2)

    def observe(self, row: Metrics) -> None:
        """Read a row; one without a measurement is passed over."""
        if number(row, _REACH) is not None:
            self._latest.append(row)

    def now(self) -> Sign | None:
        """Return the sign of the latest measurements, if there is one."""
        rows = list(self._latest)
        if len(rows) < 2 or any(_below(row, _AGREEMENT, AGREES) for row in rows):
            return None
        if all(_above(row, _USED, 0.0) and _above(row, _ELSEWHERE, MOST) for row in rows):
            return self._too_few_layers(rows)
        if all(_above(row, _USED, USED) and _is_exhausted(row) for row in rows):
            return self._too_small(rows)
        return None

    def _too_few_layers(self, rows: list[Metrics]) -> Sign:
        share = min(float(row[_ELSEWHERE]) for row in rows)
        return Sign(
            kind=SignKind.capacity,
            finding=(
                f"{share:.0%} of the gradient of linear layers is in those without an adapter "
                f"({steps_of(rows)})"
            ),
            advice=(
                "Add modules: set adapter.target_modules=all-linear; a lower adapter.rank keeps "
                "the size"
            ),
        )

    def _too_small(self, rows: list[Metrics]) -> Sign:
        share = min(float(row[_OUTSIDE]) for row in rows)
        used = min(float(row[_USED]) for row in rows)
        reach = float(rows[-1][_REACH])
        raise_it = (
            "Raise the rank: double adapter.rank, with adapter=rslora above 64"
            if reach < FULL
            else f"Train every weight with adapter=none: this adapter has {reach:.0%} of their "
            "dimensions already"
        )
        return Sign(
            kind=SignKind.capacity,
            finding=(
                f"the adapter has gone as far as it can: {share:.0%} of what the rows still ask "
                f"for in common lies elsewhere, and its updates use {used:.0%} of its rank "
                f"({steps_of(rows)})"
            ),
            advice=f"{raise_it}, if the held-out result is not good enough",
        )


def _is_exhausted(row: Metrics) -> bool:
    """Whether it can follow less of what the rows have in common than of any gradient."""
    return _above(row, _OUTSIDE, 1 - float(row[_REACH]))


def _below(row: Metrics, name: str, bound: float) -> bool:
    """Whether a metric is not there, or below ``bound``."""
    value = number(row, name)
    return value is None or value < bound


def _above(row: Metrics, name: str, bound: float) -> bool:
    value = number(row, name)
    return value is not None and value > bound
