"""Group rewards -> advantages.

Owns the group baselines and the statistics of groups. Refuses to own where rewards come
from, refilling, and packing. Invariant: a missing reward (NaN) takes part in no mean and
no deviation, its advantage is NaN, and NaN means "do not train on this"; a group without a
baseline (fewer than two usable rewards) is all NaN, never "advantage = raw reward".

Legend: P prompts, G group (padded with NaN when groups differ in size).
An estimator is ``estimator(rewards_PG, config) -> advantages_PG``, registered by name.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlpost.errors import DataError, UserError
from rlpost.registry import Registry

estimators = Registry("estimator")

MIN_GROUP = 2  # one sample has no group baseline


def check_group_size(group_size: int, *, path: str = "rollout.group_size") -> None:
    """Refuse a group that can never have a baseline.

    Raises:
        UserError: ``group_size`` is below 2.
    """
    if group_size < MIN_GROUP:
        raise UserError(
            f"{path} must be at least {MIN_GROUP}, got {group_size}: the baseline is the mean "
            "of the group; GRPO commonly uses 8"
        )


def rewards_matrix(rewards: Sequence[Sequence[float | None]]) -> Tensor:
    """Lay out the rewards of P groups as float64 ``rewards_PG``, NaN where missing.

    Groups may differ in size; G is the largest (at least 1).

    Raises:
        DataError: a reward is infinite.
    """
    width = max((len(group) for group in rewards), default=1) or 1
    rewards_PG = torch.full((len(rewards), width), torch.nan, dtype=torch.float64)
    for p, group in enumerate(rewards):
        for g, reward in enumerate(group):
            if reward is None:
                continue
            if math.isinf(reward):
                raise DataError(
                    f"group {p}, sample {g}: reward is {reward}; a reward must be finite, or "
                    "None when there is no judgement"
                )
            rewards_PG[p, g] = reward
    return rewards_PG


@dataclass(kw_only=True)
class GRPOConfig:
    """Group-relative advantages, arXiv 2402.03300."""

    kind: str = "grpo"
    epsilon: float = 1e-4  # added to the deviation
    normalize_std: bool = True  # divide by the group's deviation

    def check(self, path: str = "algorithm.advantage") -> None:
        """Raises UserError: a field is out of range."""
        if not 0 < self.epsilon < math.inf:
            raise UserError(
                f"{path}.epsilon must be positive, got {self.epsilon}; GRPO commonly uses 1e-4"
            )


@estimators.register("grpo", GRPOConfig)
def grpo(rewards_PG: Tensor, config: GRPOConfig) -> Tensor:
    """(r - mean) / (std + epsilon) with the unbiased deviation of the usable rewards."""
    centred_PG, count_P1 = _centred(rewards_PG)
    if not config.normalize_std:
        return centred_PG
    variance_P1 = centred_PG.nan_to_num(0.0).square().sum(1, keepdim=True) / (count_P1 - 1)
    return centred_PG / (variance_P1.sqrt() + config.epsilon)


@dataclass(kw_only=True)
class DrGRPOConfig:
    """GRPO without the deviation, arXiv 2503.20783; pair it with aggregation=constant."""

    kind: str = "dr_grpo"

    def check(self, path: str = "algorithm.advantage") -> None:
        """Nothing can be out of range."""


@estimators.register("dr_grpo", DrGRPOConfig)
def dr_grpo(rewards_PG: Tensor, config: DrGRPOConfig) -> Tensor:
    """r - mean of the usable rewards of the group."""
    return _centred(rewards_PG)[0]


@dataclass(kw_only=True)
class RLOOConfig:
    """REINFORCE leave-one-out, arXiv 2402.14740."""

    kind: str = "rloo"

    def check(self, path: str = "algorithm.advantage") -> None:
        """Nothing can be out of range."""


@estimators.register("rloo", RLOOConfig)
def rloo(rewards_PG: Tensor, config: RLOOConfig) -> Tensor:
    """r - mean of the *other* usable rewards = (r - mean) * n / (n - 1)."""
    centred_PG, count_P1 = _centred(rewards_PG)
    return centred_PG * count_P1 / (count_P1 - 1)


def _centred(rewards_PG: Tensor) -> tuple[Tensor, Tensor]:
    """Return r - group mean (NaN where missing or without a baseline) and n as (P, 1)."""
    usable_PG = ~rewards_PG.isnan()
    count_P1 = usable_PG.sum(1, keepdim=True)
    # The lowest reward goes first: equal rewards then give exactly 0, whatever the rounding.
    lowest_P1 = rewards_PG.nan_to_num(torch.inf).amin(1, keepdim=True)
    shifted_PG = rewards_PG - lowest_P1
    mean_P1 = shifted_PG.nan_to_num(0.0).sum(1, keepdim=True) / count_P1
    centred_PG = shifted_PG - mean_P1
    return centred_PG.masked_fill(count_P1 < MIN_GROUP, torch.nan), count_P1


@dataclass(frozen=True, kw_only=True)
class GroupStatistics:
    """Which groups teach nothing, and why; the masks are over P.

    ``zero_variance_P``: two or more usable rewards, all equal: no gradient.
    ``all_pass_P`` / ``all_fail_P``: the same set split by raw reward (the rest of it sits at
    one value between the two bounds). ``too_few_P``: fewer than two usable rewards.
    """

    zero_variance_P: Tensor
    all_pass_P: Tensor
    all_fail_P: Tensor
    too_few_P: Tensor

    def metrics(self) -> dict[str, float]:
        """Fractions of the groups that have a baseline, and the count of those without.

        The fractions are left out when no group has a baseline.
        """
        with_baseline = int((~self.too_few_P).sum())
        result = {"group/too_few_samples": float(self.too_few_P.sum())}
        if with_baseline:
            for name, mask_P in (
                ("group/zero_std_frac", self.zero_variance_P),
                ("group/all_pass_frac", self.all_pass_P),
                ("group/all_fail_frac", self.all_fail_P),
            ):
                result[name] = float(mask_P.sum()) / with_baseline
        return result


def group_statistics(
    rewards_PG: Tensor, *, pass_reward: float = 1.0, fail_reward: float = 0.0
) -> GroupStatistics:
    """Classify groups by their raw rewards.

    Args:
        rewards_PG: NaN where missing.
        pass_reward: a zero-variance group at or above it is "all pass".
        fail_reward: a zero-variance group at or below it is "all fail".
    """
    usable_PG = ~rewards_PG.isnan()
    lowest_P = rewards_PG.nan_to_num(torch.inf).amin(1)
    highest_P = rewards_PG.masked_fill(~usable_PG, -torch.inf).amax(1)
    too_few_P = usable_PG.sum(1) < MIN_GROUP
    zero_variance_P = ~too_few_P & (lowest_P == highest_P)
    return GroupStatistics(
        zero_variance_P=zero_variance_P,
        all_pass_P=zero_variance_P & (lowest_P >= pass_reward),
        all_fail_P=zero_variance_P & (highest_P <= fail_reward),
        too_few_P=too_few_P,
    )


def leave_out(advantages_PG: Tensor, groups_P: Tensor) -> Tensor:
    """Mark the groups in the mask as "do not train" (NaN).

    Used for zero-variance groups: without a KL term they would cost a forward and backward
    pass for a gradient of exactly 0. Left-out groups take no part in denominators.
    """
    return advantages_PG.masked_fill(groups_P[:, None], torch.nan)
