"""What a step packs of the rows that it learns from, for the estimate of memory and disk.

Owns the size of a step. Refuses to own the sum (stages/estimate.py).
"""

from typing import Protocol

import numpy as np

from rlpost.data.splits import Splits
from rlpost.stages.estimate import Estimate, Estimated, add_up


class LearnsRows(Estimated, Protocol):
    """The plan of a stage that learns from a data set."""

    @property
    def splits(self) -> Splits:
        """The rows to learn, and those that are held out."""


def estimate(plan: LearnsRows, *, gpu_bytes: float | None) -> Estimate:
    """Add up every process of ``plan``; see ``add_up``."""
    return add_up(plan, tokens_per_step=_longest_step(plan), gpu_bytes=gpu_bytes)


def _longest_step(plan: LearnsRows) -> int:
    """Return the tokens of a step that draws the longest rows of all sources."""
    lengths_N = np.concatenate([each.lengths_N for each in plan.splits.train.corpora.values()])
    examples = plan.cfg.examples_per_step
    return int(np.resize(np.sort(lengths_N)[::-1], examples).sum())
