"""What every advantage estimator takes, returns and shares.

Owns the registry, the inputs and result of an estimator, the statistics of groups and the
arithmetic on a ragged batch. Refuses to own the estimators (group.py, token.py), reward
shaping (shaping.py), where rewards come from, refilling and packing. Invariant: a missing
reward (NaN) takes part in no mean and no deviation, its advantage is NaN, and NaN means "do not
train on this"; in a group without a baseline (fewer than two usable rewards) every advantage is
NaN, never the raw reward.

Legend: P prompts, G group (padded with NaN when groups differ in size), L sampled tokens
(padded), K reward components. An estimator is ``estimator(inputs, config) -> Advantages``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlpost.errors import DataError, UserError
from rlpost.registry import Registry

__all__ = [
    "AdvantageInputs",
    "Advantages",
    "EstimatorConfig",
    "GroupStatistics",
    "check_group_size",
    "estimators",
    "group_statistics",
    "leave_out",
    "rewards_matrix",
]

estimators = Registry("estimator")

MIN_GROUP = 2  # one sample has no group baseline
WHITEN_EPSILON = 1e-8  # added to the variance, so a deviation below 1e-4 is not scaled up to 1


class EstimatorConfig:
    """What set-up must know about an estimator: class constants, not options in YAML.

    A config dataclass inherits these defaults and overrides those that differ.
    """

    needs_group: ClassVar[bool] = False  # the baseline is made of the group's other samples
    needs_critic: ClassVar[bool] = False  # reads values_PGL, and gives returns_PGL to fit
    needs_greedy: ClassVar[bool] = False  # reads greedy_rewards_P
    needs_components: ClassVar[bool] = False  # reads components_PGK
    token_level: ClassVar[bool] = False  # accepts token_rewards_PGL (KL in the reward)
    zero_when_equal: ClassVar[bool] = False  # equal rewards in a group: exactly 0, no gradient

    use: ClassVar[str]  # when to choose it: one sentence for docs/algorithms.md
    watch: ClassVar[str]  # which metric or hazard to watch: one sentence, also for the docs

    @property
    def min_group(self) -> int:
        """Samples per prompt below which no advantage can differ from 0."""
        return MIN_GROUP if self.needs_group else 1


@dataclass(frozen=True, kw_only=True)
class AdvantageInputs:
    """The inputs of an estimator, usually float64; estimators never modify them.

    ``values_PGL[..., t]`` is the critic's value of the state *before* sampled token t.
    Past a response's end, token rewards and values may hold anything.

    Example: ``AdvantageInputs(rewards_PG=rewards_matrix([[1, 0]]),
    lengths_PG=torch.tensor([[7, 9]]))``
    """

    rewards_PG: Tensor  # NaN where missing
    lengths_PG: Tensor  # int64: sampled tokens; 0 where there is no sample
    components_PGK: Tensor | None = None  # rewards by source; NaN where missing
    component_weights_K: Tensor | None = None
    greedy_rewards_P: Tensor | None = None  # reward of the greedy response; NaN where missing
    token_rewards_PGL: Tensor | None = None  # added per token, such as -beta * KL
    values_PGL: Tensor | None = None

    def __post_init__(self) -> None:
        shape = self.rewards_PG.shape
        assert self.lengths_PG.shape == shape, (self.lengths_PG.shape, shape)
        assert not self.lengths_PG.is_floating_point(), self.lengths_PG.dtype
        if self.greedy_rewards_P is not None:
            assert self.greedy_rewards_P.shape == shape[:1], self.greedy_rewards_P.shape
        if self.components_PGK is not None:
            assert self.components_PGK.shape[:2] == shape, self.components_PGK.shape
            assert self.component_weights_K is not None, "components come with weights"
            assert self.component_weights_K.shape == self.components_PGK.shape[2:]
        for tensor_PGL in (self.token_rewards_PGL, self.values_PGL):
            if tensor_PGL is not None:
                assert tensor_PGL.dim() == 3, tensor_PGL.shape
                assert tensor_PGL.shape == (*shape, self.num_tokens), tensor_PGL.shape
                assert bool((self.lengths_PG <= self.num_tokens).all()), "a response is cut off"
                inside_PGL = tensor_PGL[self.tokens_PGL & ~self.rewards_PG.isnan()[..., None]]
                assert bool(inside_PGL.isfinite().all()), "not finite within a response"

    @property
    def num_tokens(self) -> int:
        """L: the padded number of tokens, at least 1."""
        for tensor_PGL in (self.token_rewards_PGL, self.values_PGL):
            if tensor_PGL is not None:
                return tensor_PGL.shape[2]
        return max(1, int(self.lengths_PG.max())) if self.lengths_PG.numel() else 1

    @property
    def tokens_PGL(self) -> Tensor:
        """Which positions hold a sampled token (bool)."""
        positions_L = torch.arange(self.num_tokens, device=self.lengths_PG.device)
        return positions_L < self.lengths_PG[..., None]


@dataclass(frozen=True, kw_only=True)
class Advantages:
    """An estimator's result; NaN means "do not train on this".

    ``advantages_PGL`` has L = 1 when there is one number per response, to broadcast over its
    tokens. ``returns_PGL`` is the critic's target, NaN in the same places.
    """

    advantages_PGL: Tensor  # float64
    returns_PGL: Tensor | None = None


def check_group_size(group_size: int, *, minimum: int) -> None:
    """Refuse a group too small for a baseline; ``minimum`` is ``EstimatorConfig.min_group``.

    Raises:
        UserError: ``group_size`` is below the minimum.
    """
    if group_size < minimum:
        raise UserError(
            f"rollout.group_size must be at least {minimum}, got {group_size}: the baseline comes "
            "from the other responses of the group; GRPO commonly uses 8"
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


def outcome_rewards(inputs: AdvantageInputs) -> Tensor:
    """Return ``rewards_PG`` as float64, for estimators without rewards per token."""
    assert inputs.token_rewards_PGL is None, "this estimator takes no rewards per token"
    return inputs.rewards_PG.double()


def per_response(advantages_PG: Tensor) -> Advantages:
    """Wrap one number per response."""
    return Advantages(advantages_PGL=advantages_PG[..., None])


def centred(rewards_PG: Tensor, weights_PG: Tensor | None = None) -> Tensor:
    """Return r - (weighted) group mean: NaN where missing or without a baseline.

    Equal rewards give exactly 0, because the lowest reward is subtracted before the mean.
    """
    usable_PG = ~rewards_PG.isnan()
    weights_PG = usable_PG if weights_PG is None else weights_PG * usable_PG
    lowest_P1 = rewards_PG.nan_to_num(torch.inf).amin(1, keepdim=True)
    shifted_PG = rewards_PG - lowest_P1
    weighted_PG = shifted_PG.nan_to_num(0.0) * weights_PG
    mean_P1 = weighted_PG.sum(1, keepdim=True) / weights_PG.sum(1, keepdim=True)
    too_few_P1 = usable_PG.sum(1, keepdim=True) < MIN_GROUP
    return (shifted_PG - mean_P1).masked_fill(too_few_P1, torch.nan)


def usable_counts(rewards_PG: Tensor) -> Tensor:
    """Return how many rewards of each group are there, as (P, 1)."""
    return (~rewards_PG.isnan()).sum(1, keepdim=True)


def whiten(values_PGL: Tensor, *, counts_PGL: Tensor) -> Tensor:
    """Return (x - mean) / sqrt(var + 1e-8) over the batch; no variance gives exactly 0.

    Args:
        values_PGL: NaN takes part in nothing and stays NaN.
        counts_PGL: the weight of each value, such as the number of tokens that share it; a
            value with weight 0 becomes NaN.

    The variance is the population's (divided by n), so it is defined for a single value.
    """
    used_PGL = ~values_PGL.isnan() & (counts_PGL > 0)
    counts_PGL = counts_PGL * used_PGL
    if not values_PGL.numel():
        return values_PGL
    lowest = values_PGL.masked_fill(~used_PGL, torch.inf).min()
    shifted_PGL = (values_PGL - lowest).masked_fill(~used_PGL, 0.0)
    total = counts_PGL.sum()
    centred_PGL = shifted_PGL - (counts_PGL * shifted_PGL).sum() / total
    variance = (counts_PGL * centred_PGL.square()).sum() / total
    return (centred_PGL / (variance + WHITEN_EPSILON).sqrt()).masked_fill(~used_PGL, torch.nan)


@dataclass(frozen=True, kw_only=True)
class GroupStatistics:
    """Which groups have no gradient, and why; the masks are over P.

    ``zero_variance_P``: two or more usable rewards, all equal, so there is no gradient.
    ``all_pass_P`` / ``all_fail_P``: the members of that set with a reward of 1 or more, and of
    0 or less. ``too_few_P``: fewer than two usable rewards.
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


def group_statistics(rewards_PG: Tensor) -> GroupStatistics:
    """Classify groups by their raw rewards, which are NaN where missing.

    A zero-variance group is "all pass" at 1 or above, and "all fail" at 0 or below.
    """
    usable_PG = ~rewards_PG.isnan()
    lowest_P = rewards_PG.nan_to_num(torch.inf).amin(1)
    highest_P = rewards_PG.masked_fill(~usable_PG, -torch.inf).amax(1)
    too_few_P = usable_PG.sum(1) < MIN_GROUP
    zero_variance_P = ~too_few_P & (lowest_P == highest_P)
    return GroupStatistics(
        zero_variance_P=zero_variance_P,
        all_pass_P=zero_variance_P & (lowest_P >= 1),
        all_fail_P=zero_variance_P & (highest_P <= 0),
        too_few_P=too_few_P,
    )


def leave_out(advantages: Tensor, groups_P: Tensor) -> Tensor:
    """Set the advantages of the masked groups, (P, G) or (P, G, L), to NaN: "do not train".

    Used for zero-variance groups of estimators with ``zero_when_equal``: without a KL term
    they would cost a forward and backward pass for a gradient of exactly 0. Groups that are
    left out do not count in denominators.
    """
    return advantages.masked_fill(groups_P.view(-1, *[1] * (advantages.dim() - 1)), torch.nan)
