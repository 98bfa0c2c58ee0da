"""Warns, once for each sign, that a run does not learn.

Owns when a sign is logged. Refuses to own the rules (control/learning_signs.py) and the page
(report/report_data.py). Invariant: a sign that goes away and comes back is logged once.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlpost.control.learning_signs import PATIENCE, LearningSigns
from rlpost.control.sign import SignKind
from rlpost.tracking.files.jsonl import read_metrics
from rlpost.tracking.sample import SampleRecord
from rlpost.tracking.tracker import RunStatus

logger = logging.getLogger(__name__)


class LearningWatch:
    """Tracker that warns; ``metrics`` is the metrics file, which is read after a rewind."""

    def __init__(self, metrics: Path, *, num_steps: int | None = None) -> None:
        self._metrics, self._patience = metrics, patience_of(num_steps)
        self._signs = LearningSigns(patience=self._patience)
        self._said: set[SignKind] = set()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Warn of the signs that are new after this row."""
        self._signs.observe({"step": step, **metrics})
        for sign in self._signs.now():
            if sign.kind not in self._said:
                self._said.add(sign.kind)
                logger.warning("%s", sign)

    def log_samples(self, step: int, samples: Sequence[SampleRecord]) -> None:
        """Do nothing: metrics are enough."""

    def rewind(self, step: int) -> None:
        """Read again what was recorded up to ``step``."""
        self._signs = LearningSigns(patience=self._patience)
        for row in read_metrics(self._metrics):
            if row["step"] <= step:
                self._signs.observe(row)

    def close(self, status: RunStatus) -> None:
        """Do nothing."""


def patience_of(num_steps: int | None) -> int:
    """Return how many steps must agree in a run of ``num_steps``."""
    return PATIENCE if num_steps is None else max(1, min(PATIENCE, num_steps))
