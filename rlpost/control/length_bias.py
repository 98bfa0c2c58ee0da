"""The sign that what is learned from comparisons is length.

Owns the rule. It reads what the stages ``preference`` and ``reward`` measure in each step:
``STAGE/length_correlation``, Pearson's between rewards and lengths in tokens (of pairs: between the
differences of both sides), and the mean lengths. Invariant: the sign describes the latest steps
together, because a correlation over the few pairs of one step is mostly chance. Pure.
"""

import re
from collections import deque
from statistics import fmean

from rlpost.control.sign import Metrics, Sign, SignKind, number, steps_of

WINDOW = 8  # the latest steps that are averaged
FEWEST = 4  # of them must have been seen
FOLLOWS = 0.5  # a correlation from which on rewards are said to follow length
FAR = 1.5  # a quotient of mean lengths from which on length alone tells sides apart
_CORRELATION = re.compile(r"(\w+)/length_correlation")
_ADVICE = {
    "reward": "RL with this reward model makes responses longer without making them better",
    "preference": "Look at the lengths of generated responses, which rlpost evaluate reports",
}
_WAY_OUT = {
    "reward": "use pairs whose sides have about the same length",
    "preference": "use pairs whose sides have about the same length, or loss=simpo, which compares "
    "means per token",
}


class LengthBias:
    """Reads rows of metrics in the order of steps; ``now`` says what the latest ones show."""

    def __init__(self) -> None:
        self._stage = ""
        self._latest: deque[Metrics] = deque(maxlen=WINDOW)

    def observe(self, row: Metrics) -> None:
        """Read a row; one without a comparison of lengths is passed over."""
        names = [match[1] for name in row if (match := _CORRELATION.fullmatch(name))]
        if names and names[0] in _ADVICE:
            self._stage = names[0]
            self._latest.append(row)

    def now(self) -> Sign | None:
        """Return the sign of the latest steps, if there is one."""
        if len(self._latest) < FEWEST:
            return None
        correlation = self._mean("length_correlation")
        chosen, rejected = self._mean("chosen_tokens"), self._mean("rejected_tokens")
        lengths = ""
        if chosen and rejected:
            lengths = f"; chosen ones have {chosen:.0f} tokens on average, rejected {rejected:.0f}"
        steps = steps_of(self._latest)
        if correlation is not None and abs(correlation) >= FOLLOWS:
            what = "longer" if correlation > 0 else "shorter"
            finding = (
                f"{what} responses are preferred: over {steps} the correlation of rewards with "
                f"length is {correlation:.2f}{lengths}"
            )
        elif chosen and rejected and max(chosen / rejected, rejected / chosen) >= FAR:
            finding = f"length alone tells good responses from bad ones in {steps}{lengths}"
        else:
            return None
        advice = f"{_ADVICE[self._stage]}; {_WAY_OUT[self._stage]}"
        return Sign(kind=SignKind.length, finding=finding, advice=advice)

    def _mean(self, metric: str) -> float | None:
        found = [number(row, f"{self._stage}/{metric}") for row in self._latest]
        values = [value for value in found if value is not None]
        return fmean(values) if values else None
