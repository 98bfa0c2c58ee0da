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


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens of responses. Example: ``Lengths(mean=800, longest=4096)``."""

    mean: float
    longest: int

    def points(self) -> list[float]:
        """Return equally likely lengths whose mean is ``mean``, in an order that mixes them."""
        if self.mean >= self.longest:
            return [float(self.longest)] * _POINTS
        low, high = math.log(1e-3), math.log(1e3 * self.longest)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self._mean(middle) < self.mean else (low, middle)
        found = self._cut(low)
        step = 13  # coprime to the number of points
        return [found[(index * step) % _POINTS] for index in range(_POINTS)]

    def _mean(self, log_median: float) -> float:
        return sum(self._cut(log_median)) / _POINTS

    def _cut(self, log_median: float) -> list[float]:
        normal = NormalDist(log_median, SPREAD)
        quantiles = (normal.inv_cdf((index + 0.5) / _POINTS) for index in range(_POINTS))
        return [min(float(self.longest), math.exp(each)) for each in quantiles]
