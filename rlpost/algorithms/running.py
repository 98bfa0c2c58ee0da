"""Mean and variance of a stream, kept exactly enough to go on for ever.

Owns the running moments (Welford; merging after Chan, Golub, LeVeque 1979). Refuses to know
what the numbers are and when to update. Invariant: values added one by one, in batches or
merged from parts give the same moments up to rounding. Plain floats.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self


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

    def merge(self, other: Self) -> None:
        """Add what another instance has seen."""
        count = self.count + other.count
        if not count:
            return
        deviation = other.mean - self.mean
        self.mean += deviation * other.count / count
        self.squares += other.squares + deviation**2 * self.count * other.count / count
        self.count = count

    @property
    def std(self) -> float:
        """Unbiased standard deviation; 0 below two values."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0

    def normalized(self, value: float, *, eps: float = 1e-8) -> float:
        """Return ``(value - mean) / std``; only shifted while all values were equal."""
        return (value - self.mean) / (self.std + eps if self.std > 0 else 1.0)

    def state_dict(self) -> dict[str, float]:
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.count = int(state["count"])
        self.mean, self.squares = state["mean"], state["squares"]
