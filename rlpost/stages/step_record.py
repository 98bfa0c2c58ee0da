"""The record of the step in progress: metrics and where the time went.

Owns accumulation. Refuses to own names and definitions (sampling/metrics.py, rl/step_metrics.py)
and sinks (tracking/).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


def _no_span(name: str, start_s: float, end_s: float) -> None:
    """Spans go nowhere."""


class StepRecord:
    """Flat metrics; times of the same name add up.

    Example::

        with record.timed("ref"):
            ...
        record.add({"actor/kl_coef": 0.1})
        tracker.log(step, record.take())
    """

    def __init__(self, span: Callable[[str, float, float], None] = _no_span) -> None:
        """``span`` is told name, start and end (monotonic seconds) of what is timed."""
        self.metrics: dict[str, float] = {}
        self._span = span

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add, or replace, metrics."""
        self.metrics |= metrics

    def add_up(self, name: str, amount: float) -> None:
        """Add to what the metric already is."""
        self.metrics[name] = self.metrics.get(name, 0.0) + amount

    def add_time(self, name: str, seconds: float) -> None:
        """Add to ``timing_s/<name>``."""
        self.add_up(f"timing_s/{name}", seconds)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to ``timing_s/<name>``."""
        start_s = time.monotonic()
        try:
            yield
        finally:
            end_s = time.monotonic()
            self.add_time(name, end_s - start_s)
            self._span(name, start_s, end_s)

    def take(self) -> dict[str, float]:
        """Return what was recorded and start afresh."""
        taken, self.metrics = self.metrics, {}
        return taken
