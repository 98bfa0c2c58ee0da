"""The interface through which a stage says what happened, and its fan-out.

Owns the verbs. Refuses to own where the records go (one file per sink). Invariants: every
sink sees every call in the same order; at ``close`` every sink is closed, whatever the
others do.
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


class RunStatus(Enum):
    """How a run ended."""

    done = "done"
    failed = "failed"
    interrupted = "interrupted"


class Tracker(Protocol):
    """One place that records of a run go to."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record flat metrics of ``step``; step 0 is before training.

        A second call for the same step adds to it; steps never decrease.
        """

    def log_samples(self, step: int, samples: Sequence[SampleRecord]) -> None:
        """Record the judged responses that ``step`` trained on."""

    def close(self, status: RunStatus) -> None:
        """Flush and let go; later calls are errors."""


class Phased(Tracker, Protocol):
    """A tracker that also shows what is going on between two ``log`` calls."""

    def phase(self, phase: Phase, detail: str = "") -> None:
        """Say what is being done; ``detail`` names what is waited for."""


class Trackers:
    """Several trackers behind one; ``console`` is also told the phases.

    Example::

        trackers = Trackers([metrics, rollouts, wandb], console=console)
        trackers.phase(Phase.generating)
        trackers.log(1, {"critic/score/mean": 0.25})
        trackers.close(RunStatus.done)
    """

    def __init__(self, sinks: Sequence[Tracker], *, console: Phased | None = None) -> None:
        self._console = console
        self._sinks = [*sinks, *([] if console is None else [console])]

    def phase(self, phase: Phase, detail: str = "") -> None:
        """Show what the driver does now."""
        if self._console is not None:
            self._console.phase(phase, detail)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record flat metrics of ``step`` everywhere."""
        for sink in self._sinks:
            sink.log(step, metrics)

    def log_samples(self, step: int, samples: Sequence[SampleRecord]) -> None:
        """Record the samples of ``step`` everywhere."""
        for sink in self._sinks:
            sink.log_samples(step, samples)

    def close(self, status: RunStatus) -> None:
        """Close every sink in the order given, even when one of them raises."""
        with ExitStack() as stack:
            for sink in reversed(self._sinks):
                stack.callback(sink.close, status)
