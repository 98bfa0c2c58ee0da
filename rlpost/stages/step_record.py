"""The record of the step in progress: metrics and where the time went.

Owns accumulation. Refuses to own names and definitions (step_metrics.py) and sinks
(tracking/).
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class StepRecord:
    """Flat metrics; times of the same name add up.

    Example::

        with record.timed("ref"):
            ...
        record.add({"actor/kl_coef": 0.1})
        tracker.log(step, record.take())
    """

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add, or replace, metrics."""
        self.metrics |= metrics

    def add_time(self, name: str, seconds: float) -> None:
        """Add to ``timing_s/<name>``."""
        key = f"timing_s/{name}"
        self.metrics[key] = self.metrics.get(key, 0.0) + seconds

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to ``timing_s/<name>``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add_time(name, time.perf_counter() - start)

    def take(self) -> dict[str, float]:
        """Return what was recorded and start afresh."""
        taken, self.metrics = self.metrics, {}
        return taken
