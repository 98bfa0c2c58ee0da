"""The mean and variance of a stream of numbers.

Owns the running moments (Welford's algorithm). Refuses to know what the numbers are and when
to update. Invariant: values added one by one or in batches give the same moments up to
rounding. Plain floats.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

EPSILON = 1e-8  # added to the deviation


@dataclass(kw_only=True)
class RunningStatistics:
    """Example::

    statistics = RunningStatistics()
    statistics.update([1.0, 2.0, 3.0])
    statistics.normalized(3.0)  # 1.0: one unbiased standard deviation above the mean
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared deviations from the mean

    def update(self, values: Iterable[float]) -> None:
        """Add values; they must be finite."""
        for value in values:
            assert math.isfinite(value), value
            self.count += 1
            deviation = value - self.mean
            self.mean += deviation / self.count
            self.squares += deviation * (value - self.mean)

    @property
    def std(self) -> float:
        """Unbiased standard deviation; 0 below two values."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0

    def normalized(self, value: float) -> float:
        """Return ``(value - mean) / std``; while all values are equal, ``value - mean``."""
        return (value - self.mean) / (self.std + EPSILON if self.std > 0 else 1.0)

    def state_dict(self) -> dict[str, float]:
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.count = int(state["count"])
        self.mean, self.squares = state["mean"], state["squares"]
