"""Estimators that give one advantage per response.

Owns the baselines made of a group's rewards or of a greedy response. Refuses to own rewards
per token: KL belongs in the loss here. Invariants and legend: base.py.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlpost.algorithms.advantages.base import (
    AdvantageInputs,
    Advantages,
    EstimatorConfig,
    centred,
    estimators,
    outcome_rewards,
    per_response,
    usable_counts,
    whiten,
)
from rlpost.bounds import number, option

__all__ = [
    "ConstantConfig",
    "DrGRPOConfig",
    "GDPOConfig",
    "GRPOConfig",
    "OPOConfig",
    "PassAtKConfig",
    "RLOOConfig",
    "ReMaxConfig",
]


def _standardised(rewards_PG: Tensor, *, epsilon: float) -> Tensor:
    """(r - mean) / (std + epsilon) with the unbiased deviation of the usable rewards."""
    centred_PG = centred(rewards_PG)
    squares_P1 = centred_PG.nan_to_num(0.0).square().sum(1, keepdim=True)
    deviation_P1 = (squares_P1 / (usable_counts(rewards_PG) - 1)).sqrt()
    return centred_PG / (deviation_P1 + epsilon)


@dataclass(kw_only=True)
class GRPOConfig(EstimatorConfig):
    """Group-relative advantages, arXiv 2402.03300."""

    needs_group: ClassVar[bool] = True
    zero_when_equal: ClassVar[bool] = True
    use: ClassVar[str] = (
        "The usual start for verifiable rewards: several responses per prompt, and no critic."
    )
    watch: ClassVar[str] = (
        "Groups of equal rewards have no gradient (`group/zero_std_frac`), and dividing by a small "
        "deviation makes nearly solved and nearly hopeless prompts count more."
    )

    kind: str = "grpo"
    epsilon: float = number(
        1e-4,
        above=0,
        at_most=1000,
        hint="GRPO commonly uses 1e-4",
        help="added to the deviation of a group's rewards",
    )
    normalize_std: bool = option(True, help="divide by the deviation of the group's rewards")


@estimators.register("grpo", GRPOConfig)
def grpo(inputs: AdvantageInputs, config: GRPOConfig) -> Advantages:
    """(r - mean) / (std + epsilon) with the unbiased deviation of the usable rewards."""
    rewards_PG = outcome_rewards(inputs)
    if not config.normalize_std:
        return per_response(centred(rewards_PG))
    return per_response(_standardised(rewards_PG, epsilon=config.epsilon))


@dataclass(kw_only=True)
class DrGRPOConfig(EstimatorConfig):
    """GRPO without the deviation, arXiv 2503.20783; pair it with aggregation=constant."""

    needs_group: ClassVar[bool] = True
    zero_when_equal: ClassVar[bool] = True
    use: ClassVar[str] = (
        "When wrong responses grow longer under grpo, or nearly solved prompts should not count "
        "more."
    )
    watch: ClassVar[str] = (
        "The bias by length goes only with `algorithm.reduction.aggregation=constant` "
        "(`response_length/mean`), and the step size follows the scale of the rewards."
    )

    kind: str = "dr_grpo"


@estimators.register("dr_grpo", DrGRPOConfig)
def dr_grpo(inputs: AdvantageInputs, config: DrGRPOConfig) -> Advantages:
    """r - mean of the usable rewards of the group."""
    return per_response(centred(outcome_rewards(inputs)))


@dataclass(kw_only=True)
class RLOOConfig(EstimatorConfig):
    """REINFORCE leave-one-out, arXiv 2402.14740."""

    needs_group: ClassVar[bool] = True
    zero_when_equal: ClassVar[bool] = True
    use: ClassVar[str] = (
        "An unbiased baseline for the plain policy gradient: `loss=reinforce`, one update per "
        "batch."
    )
    watch: ClassVar[str] = (
        "The step size follows the scale of the rewards, and with `rollout.group_size=2` the "
        "baseline is a single response: noisy."
    )

    kind: str = "rloo"


@estimators.register("rloo", RLOOConfig)
def rloo(inputs: AdvantageInputs, config: RLOOConfig) -> Advantages:
    """r - mean of the *other* usable rewards = (r - mean) * n / (n - 1)."""
    rewards_PG = outcome_rewards(inputs)
    count_P1 = usable_counts(rewards_PG)
    return per_response(centred(rewards_PG) * count_P1 / (count_P1 - 1))


@dataclass(kw_only=True)
class OPOConfig(EstimatorConfig):
    """Optimal reward baseline, arXiv 2505.23585; the paper trains strictly on-policy."""

    needs_group: ClassVar[bool] = True
    zero_when_equal: ClassVar[bool] = True
    use: ClassVar[str] = "Strictly on-policy training on responses of very different lengths."
    watch: ClassVar[str] = (
        "The baseline is optimal only on-policy and if gradients grow with length: leave "
        "`algorithm.epochs` and `algorithm.mini_batches` at 1."
    )

    kind: str = "opo"


@estimators.register("opo", OPOConfig)
def opo(inputs: AdvantageInputs, config: OPOConfig) -> Advantages:
    """r - sum(length * r) / sum(length): the length stands for the squared gradient norm."""
    return per_response(centred(outcome_rewards(inputs), inputs.lengths_PG))


@dataclass(kw_only=True)
class ConstantConfig(EstimatorConfig):
    """Weight 1 for every response: `selection.*` decides (rejection sampling, arXiv 2308.01825)."""

    use: ClassVar[str] = (
        "With `loss=nll` and `selection.*`, where the selection has already decided."
    )
    watch: ClassVar[str] = (
        "Every response that the selection keeps becomes more likely, wrong ones too."
    )

    kind: str = "constant"


@estimators.register("constant", ConstantConfig)
def constant(inputs: AdvantageInputs, config: ConstantConfig) -> Advantages:
    """1 for every response with a reward."""
    return per_response(torch.ones_like(outcome_rewards(inputs)) + 0 * inputs.rewards_PG)


@dataclass(kw_only=True)
class ReMaxConfig(EstimatorConfig):
    """The greedy response as baseline, arXiv 2310.10505; one sample per prompt is enough."""

    needs_greedy: ClassVar[bool] = True
    use: ClassVar[str] = (
        "When groups are too expensive: one sampled and one greedy response per prompt."
    )
    watch: ClassVar[str] = (
        "The greedy responses must be sampled and judged as well, and where both responses get "
        "the same reward the advantage is 0."
    )

    kind: str = "remax"


@estimators.register("remax", ReMaxConfig)
def remax(inputs: AdvantageInputs, config: ReMaxConfig) -> Advantages:
    """r - r(greedy); a prompt whose greedy response has no reward is not trained on."""
    assert inputs.greedy_rewards_P is not None, "ReMax needs the greedy responses' rewards"
    return per_response(outcome_rewards(inputs) - inputs.greedy_rewards_P.double()[:, None])


@dataclass(kw_only=True)
class GDPOConfig(EstimatorConfig):
    """Rewards normalised one by one, then summed, arXiv 2601.05242."""

    needs_group: ClassVar[bool] = True
    needs_components: ClassVar[bool] = True
    use: ClassVar[str] = (
        "Several rewards (correct, well formed, short) on different scales, all of which matter."
    )
    watch: ClassVar[str] = (
        "A response that lacks one of the rewards is not trained on, and a reward that rarely "
        "varies gets its full weight where it does vary: balance them by weight."
    )

    kind: str = "gdpo"
    epsilon: float = number(
        1e-4,
        above=0,
        at_most=1000,
        hint="GRPO commonly uses 1e-4",
        help="added to the deviation of each reward in its group",
    )
    batch_normalize: bool = option(
        True,
        help="normalise the sum over the batch, so that the number of rewards sets no step size",
    )


@estimators.register("gdpo", GDPOConfig)
def gdpo(inputs: AdvantageInputs, config: GDPOConfig) -> Advantages:
    """GRPO of each component, weighted sum, then whitened over the batch's responses.

    A response that lacks one component, or the total, is left out, because its sum could not be
    compared with the others. The value of the total is not used.
    """
    assert inputs.components_PGK is not None, "GDPO needs the rewards by component"
    assert inputs.component_weights_K is not None
    missing_PG = outcome_rewards(inputs).isnan() | inputs.components_PGK.isnan().any(2)
    components_PGK = inputs.components_PGK.double().masked_fill(missing_PG[..., None], torch.nan)
    total_PG = torch.zeros_like(components_PGK[..., 0]).masked_fill(missing_PG, torch.nan)
    for component_PG, weight in zip(
        components_PGK.unbind(2), inputs.component_weights_K.double(), strict=True
    ):
        total_PG = total_PG + weight * _standardised(component_PG, epsilon=config.epsilon)
    if not config.batch_normalize:
        return per_response(total_PG)
    return per_response(whiten(total_PG, counts_PGL=torch.ones_like(total_PG)))


@dataclass(kw_only=True)
class PassAtKConfig(EstimatorConfig):
    """The best of k as the reward, arXiv 2508.10751 (analytic form)."""

    needs_group: ClassVar[bool] = True
    zero_when_equal: ClassVar[bool] = True
    use: ClassVar[str] = "When one success in k attempts is the goal, or exploration has dried up."
    watch: ClassVar[str] = (
        "A group with fewer than k failures has advantage 0, so the mean reward "
        "(`critic/score/mean`) can stall: go on with grpo."
    )

    kind: str = "pass_at_k"
    k: int = number(
        4,
        at_least=1,
        at_most=10**4,
        hint="the paper uses 4",
        help="how many responses the best is taken of; must be below rollout.group_size",
    )

    @property
    def min_group(self) -> int:
        """A group of k has a single subset of k, so no advantage could differ from 0."""
        return self.k + 1


@estimators.register("pass_at_k", PassAtKConfig)
def pass_at_k(inputs: AdvantageInputs, config: PassAtKConfig) -> Advantages:
    """(mean over the k-subsets that hold the response - mean over all) / std over all.

    What is averaged is the largest reward of a subset. For rewards of 0 and 1 this is the
    paper's closed form; for other rewards it is what that form is derived from, the average
    over all subsets, which sorting makes exact. Where every subset has the same best reward
    the advantage is 0; a group with fewer than k usable rewards is NaN.
    """
    sorted_PG, order_PG = outcome_rewards(inputs).sort(dim=1)  # NaN comes last
    count_P1, missing_PG = usable_counts(sorted_PG), sorted_PG.isnan()
    shifted_PG = (sorted_PG - sorted_PG[:, :1]).nan_to_num(0.0)
    shares = _subset_shares(count_P1[:, 0], k=config.k, width=sorted_PG.shape[1])
    mean_P1 = (shares.best_PG * shifted_PG).sum(1, keepdim=True)
    variance_P1 = (shares.best_PG * (shifted_PG - mean_P1).square()).sum(1, keepdim=True)
    above_PG = shares.best_given_lower_PG * shifted_PG
    above_PG = above_PG.sum(1, keepdim=True) - above_PG.cumsum(1)  # of those ranked higher
    expected_PG = shares.best_given_own_PG * shifted_PG + above_PG
    advantages_PG = (expected_PG - mean_P1) / variance_P1.sqrt()
    highest_P1 = shifted_PG.amax(1, keepdim=True)
    below_best_P1 = ((shifted_PG < highest_P1) & ~missing_PG).sum(1, keepdim=True)
    advantages_PG = advantages_PG.masked_fill(below_best_P1 < config.k, 0.0)
    too_few_P1 = count_P1 < max(config.k, 2)
    advantages_PG = advantages_PG.masked_fill(missing_PG | too_few_P1, torch.nan)
    return per_response(torch.empty_like(advantages_PG).scatter(1, order_PG, advantages_PG))


@dataclass(frozen=True, kw_only=True)
class _SubsetShares:
    """Shares of k-subsets in which the reward of rank g (from the lowest) is the best.

    Of all subsets; of those that hold rank g itself; of those that hold one given lower rank.
    """

    best_PG: Tensor
    best_given_own_PG: Tensor
    best_given_lower_PG: Tensor


def _subset_shares(count_P: Tensor, *, k: int, width: int) -> _SubsetShares:
    """Count subsets in exact integers; ranks beyond a group's size have share 0."""
    sizes, size_index_P = count_P.unique(return_inverse=True)
    rows = [[_shares_of_rank(rank, int(n), k) for rank in range(width)] for n in sizes]
    table_PG3 = torch.tensor(rows, dtype=torch.float64).reshape(-1, width, 3)[size_index_P]
    best_PG, given_own_PG, given_lower_PG = table_PG3.unbind(2)
    return _SubsetShares(
        best_PG=best_PG, best_given_own_PG=given_own_PG, best_given_lower_PG=given_lower_PG
    )


def _shares_of_rank(rank: int, n: int, k: int) -> tuple[float, float, float]:
    if n < k or not k - 1 <= rank < n:  # k - 1 lower ones are needed to be the best
        return 0.0, 0.0, 0.0
    of_all, with_one = math.comb(n, k), math.comb(n - 1, k - 1)
    as_best = math.comb(rank, k - 1)
    as_best_with_lower = math.comb(rank - 1, k - 2) if k > 1 else 0
    return as_best / of_all, as_best / with_one, as_best_with_lower / with_one
