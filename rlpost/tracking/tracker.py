"""The interface through which a stage records what happens, and several trackers behind one.

Owns the interface. Refuses to own where the records go (one file per tracker). Invariants: every
tracker gets every call, in the same order; at ``close`` every tracker is closed, even if others
raise.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from enum import Enum
from typing import Protocol

from rlpost.tracking.sample import SampleRecord


class Phase(Enum):
    """What the driver is waiting for right now."""

    setting_up = "setting up"
    generating = "generating"
    verifying = "verifying"
    scoring = "scoring"
    training = "training"
    pushing_weights = "pushing weights"
    evaluating = "evaluating"
    checkpointing = "checkpointing"
    exporting = "exporting"


class RunStatus(Enum):
    """How a run ended."""

    done = "done"
    failed = "failed"
    interrupted = "interrupted"


class Tracker(Protocol):
    """A destination of the records of a run."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record flat metrics of ``step``; step 0 is before training.

        A second call for the same step adds to it; steps decrease only at a rewind.
        """

    def log_samples(self, step: int, samples: Sequence[SampleRecord]) -> None:
        """Record the judged responses that ``step`` trained on."""

    def rewind(self, step: int) -> None:
        """Drop the records after ``step``, from which the run continues (-1: drop all).

        Also called before the first record, to drop those of an earlier process.
        """

    def close(self, status: RunStatus) -> None:
        """Flush and release resources; later calls are errors."""


class Phased(Tracker, Protocol):
    """A tracker that also shows what happens between two ``log`` calls."""

    def phase(self, phase: Phase, detail: str = "") -> None:
        """Show what is being done; ``detail`` is what is waited for."""


class Timed(Tracker, Protocol):
    """A tracker that also records spans of time."""

    def span(
        self, lane: str, name: str, *, start_s: float, end_s: float, **details: str | int | float
    ) -> None:
        """Record one span of work, or of waiting, after it ended."""


class Trackers:
    """Several trackers behind one; ``console`` also gets phases and ``timeline`` also spans.

    Those in ``last`` come after the console, which then shows a row before they warn about it.

    Example::

        trackers = Trackers([metrics, rollouts, wandb], console=console, timeline=timeline)
        trackers.phase(Phase.generating)
        trackers.span("trainer", "train", start_s=start_s, end_s=time.monotonic())
        trackers.log(1, {"critic/score/mean": 0.25})
        trackers.close(RunStatus.done)
    """

    def __init__(
        self,
        sinks: Sequence[Tracker],
        *,
        console: Phased | None = None,
        timeline: Timed | None = None,
        last: Sequence[Tracker] = (),
    ) -> None:
        self._console, self._timeline = console, timeline
        # The timeline is flushed before the report reads it.
        before = [] if timeline is None else [timeline]
        after = [] if console is None else [console]
        self._sinks: list[Tracker] = [*before, *sinks, *after, *last]

    def phase(self, phase: Phase, detail: str = "") -> None:
        """Show what the driver does now."""
        if self._console is not None:
            self._console.phase(phase, detail)

    def span(
        self, lane: str, name: str, *, start_s: float, end_s: float, **details: str | int | float
    ) -> None:
        """Record that ``lane`` did ``name``; times are readings of ``time.monotonic``.

        Example: ``trackers.span("bus", "push v3", start_s=81.2, end_s=82.0, bytes=988_097_824)``
        """
        if self._timeline is not None:
            self._timeline.span(lane, name, start_s=start_s, end_s=end_s, **details)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record flat metrics of ``step`` everywhere."""
        for sink in self._sinks:
            sink.log(step, metrics)

    def log_samples(self, step: int, samples: Sequence[SampleRecord]) -> None:
        """Record the samples of ``step`` everywhere."""
        for sink in self._sinks:
            sink.log_samples(step, samples)

    def rewind(self, step: int) -> None:
        """Drop the records after ``step`` everywhere."""
        for sink in self._sinks:
            sink.rewind(step)

    def close(self, status: RunStatus) -> None:
        """Close every sink in the order given, even when one of them raises."""
        with ExitStack() as stack:
            for sink in reversed(self._sinks):
                stack.callback(sink.close, status)
