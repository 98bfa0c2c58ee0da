"""What a step of a supervised stage packs, for the estimate of memory and disk.

Owns the size of a step. Refuses to own the sum (stages/estimate.py).
"""

import numpy as np

from rlpost.stages.estimate import Estimate, add_up
from rlpost.stages.supervised.likelihood import LikelihoodPlan


def estimate(plan: LikelihoodPlan, *, gpu_bytes: float | None) -> Estimate:
    """Add up every process of ``plan``; see ``add_up``."""
    return add_up(plan, tokens_per_step=_longest_step(plan), gpu_bytes=gpu_bytes)


def _longest_step(plan: LikelihoodPlan) -> int:
    """Return the tokens of a step that draws the longest rows of all sources."""
    lengths_N = np.concatenate([each.lengths_N for each in plan.train.corpora.values()])
    examples = plan.cfg.examples_per_step
    return int(np.resize(np.sort(lengths_N)[::-1], examples).sum())
