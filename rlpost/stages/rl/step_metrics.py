"""The numbers of what a step of RL makes of its samples, under their public names.

Owns names and definitions. Refuses to own those of the samples (sampling/metrics.py). Pure
functions; a metric without data is left out, never 0.
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from rlpost.algorithms.advantages import Advantages
from rlpost.stages.sampling.metrics import spread


def advantages(advantages: Advantages) -> dict[str, float]:
    """``critic/advantages/*`` over the samples, or tokens, that have one."""
    values_PGL = advantages.advantages_PGL
    return spread("critic/advantages", values_PGL[~values_PGL.isnan()].tolist())


def shaped_rewards(rewards_PG: Tensor) -> dict[str, float]:
    """``critic/rewards/*``: what the estimator saw per response, after shaping and KL."""
    return spread("critic/rewards", rewards_PG[~rewards_PG.isnan()].tolist())


def values_and_returns(
    values: Mapping[int, np.ndarray], advantages: Advantages
) -> dict[str, float]:
    """``critic/values/*`` and ``critic/returns/*``, per sampled token, before the update.

    Args:
        values: the critic's, by trajectory.
        advantages: with the returns that the critic is trained towards.
    """
    said = [value for each in values.values() for value in each.tolist() if value == value]
    metrics = spread("critic/values", said)
    if advantages.returns_PGL is not None:
        returns_PGL = advantages.returns_PGL
        metrics |= spread("critic/returns", returns_PGL[~returns_PGL.isnan()].tolist())
    return metrics
