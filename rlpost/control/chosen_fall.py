"""The sign that the reward of chosen responses falls while preferences are learned.

Owns the rule and the explanation. It reads what the stage ``preference`` measures in each step:
``rewards/chosen`` and ``rewards/margins``. Invariant: first and latest steps are compared as means
over several of them, so a sign needs a fall that one step's rows do not make. Pure.
"""

from collections import deque
from statistics import fmean

from rlpost.control.sign import Metrics, Sign, SignKind, number, steps_of

WINDOW = 4  # steps that each mean is taken over
FALL = 0.3  # in units of the reward: the smallest fall that is told
SHARE = 0.5  # of the margin's growth: what falls by less is how these losses work
_READ = ("rewards/chosen", "rewards/margins")


class ChosenFall:
    """Reads rows of metrics in the order of steps; ``now`` says what the latest ones show."""

    def __init__(self) -> None:
        self._first: list[Metrics] = []
        self._latest: deque[Metrics] = deque(maxlen=WINDOW)

    def observe(self, row: Metrics) -> None:
        """Read a row; one without rewards of chosen responses is passed over."""
        if any(number(row, name) is None for name in _READ):
            return
        if len(self._first) < WINDOW:
            self._first.append(row)
        else:
            self._latest.append(row)

    def now(self) -> Sign | None:
        """Return the sign of the latest steps, if there is one."""
        if len(self._latest) < WINDOW:
            return None
        before, after = (_mean(rows, "rewards/chosen") for rows in (self._first, self._latest))
        growth = _mean(self._latest, "rewards/margins") - _mean(self._first, "rewards/margins")
        fall = before - after
        if fall < FALL or fall < SHARE * growth:
            return None
        trained = number(self._latest[-1], "preference/nll") is not None
        hold = "raise loss.alpha" if trained else "use loss=rpo, whose likelihood holds them up"
        return Sign(
            kind=SignKind.chosen_fall,
            finding=(
                f"chosen responses become less likely: their reward fell from {before:.2f} "
                f"({steps_of(self._first)}) to {after:.2f} ({steps_of(self._latest)}), while the "
                f"margin {'grew' if growth >= 0 else 'shrank'} by {abs(growth):.2f}"
            ),
            advice=(
                "The loss sees the difference alone, so some of this is usual; the more of it, the "
                "more probability goes to responses that are in no pair. Read generated ones. To "
                f"stop it {hold}, raise loss.beta, lower trainer.lr, or fine-tune on the chosen "
                "responses first"
            ),
        )


def _mean(rows: list[Metrics] | deque[Metrics], metric: str) -> float:
    return fmean(float(row[metric]) for row in rows)
