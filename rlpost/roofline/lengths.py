"""How long responses get: a few sequences stand for all of a step.

Owns the distribution. Long tails decide how long generation takes, because a step waits for its
last response. Responses are log-normal and cut at the most that is allowed; the spread is that of
``SPREAD``, and the median is chosen such that the mean is right after the cut.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

SPREAD = 0.7  # standard deviation of the logarithm
_POINTS = 32  # of a distribution
_NORMAL = NormalDist()
_QUANTILES = [_NORMAL.inv_cdf((index + 0.5) / _POINTS) for index in range(_POINTS)]


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens of responses. Example: ``Lengths(mean=800, longest=4096)``."""

    mean: float
    longest: int

    def points(self) -> list[float]:
        """Return equally likely lengths whose mean is ``mean``, in an order that mixes them."""
        median = self._log_median()
        if median is None:
            return [float(self.longest)] * _POINTS
        found = self._cut(median)
        step = 13  # coprime to the number of points
        return [found[(index * step) % _POINTS] for index in range(_POINTS)]

    def longest_of(self, responses: float) -> float:
        """Return the length that the longest of so many responses has, in the median."""
        median = self._log_median()
        if median is None:
            return float(self.longest)
        beyond = _NORMAL.inv_cdf(0.5 ** (1 / max(1.0, responses)))
        return min(float(self.longest), math.exp(median + SPREAD * beyond))

    def _log_median(self) -> float | None:
        """Return that of the responses before they are cut; None: all are as long as allowed."""
        if self.mean >= self.longest:
            return None
        low, high = math.log(1e-3), math.log(1e3 * self.longest)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self._mean(middle) < self.mean else (low, middle)
        return low

    def _mean(self, log_median: float) -> float:
        return sum(self._cut(log_median)) / _POINTS

    def _cut(self, log_median: float) -> list[float]:
        return [
            min(float(self.longest), math.exp(log_median + SPREAD * each)) for each in _QUANTILES
        ]
