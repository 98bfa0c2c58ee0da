"""Estimators that give an advantage per token.

Owns returns, generalised advantages and their whitening over the batch's tokens. Refuses to
own the critic and its loss (critic_loss.py). A response's reward is paid at its last token,
whatever ended it: nothing is bootstrapped from a truncated response. A response without a
reward is NaN throughout, and takes no part in the whitening. Invariants and legend: base.py.
"""

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
    whiten,
)
from rlpost.bounds import number, option

__all__ = [
    "GAEConfig",
    "ReinforcePPBaselineConfig",
    "ReinforcePPConfig",
]


def _trained_tokens(inputs: AdvantageInputs) -> Tensor:
    """Positions that hold a token of a response with a reward (bool, PGL)."""
    return inputs.tokens_PGL & ~inputs.rewards_PG.isnan()[..., None]


def _paid_rewards(inputs: AdvantageInputs, rewards_PG: Tensor) -> Tensor:
    """Return rewards per token: the token's own, plus the response's at the last; 0 outside."""
    tokens_PGL = _trained_tokens(inputs)
    positions_L = torch.arange(inputs.num_tokens, device=rewards_PG.device)
    last_PGL = tokens_PGL & (positions_L == inputs.lengths_PG[..., None] - 1)
    paid_PGL = torch.where(last_PGL, rewards_PG.double()[..., None], 0.0)
    if inputs.token_rewards_PGL is not None:
        paid_PGL = paid_PGL + torch.where(tokens_PGL, inputs.token_rewards_PGL.double(), 0.0)
    return paid_PGL


def _discounted_sums(values_PGL: Tensor, discount: float) -> Tensor:
    """Return S with S_t = x_t + discount * S_{t+1}, for all responses at once."""
    sums, running_PG = [], torch.zeros_like(values_PGL[..., 0])
    for values_PG in reversed(values_PGL.unbind(2)):
        running_PG = values_PG + discount * running_PG
        sums.append(running_PG)
    return torch.stack(sums[::-1], dim=2)


def _only(tokens_PGL: Tensor, values_PGL: Tensor) -> Tensor:
    return values_PGL.masked_fill(~tokens_PGL, torch.nan)


@dataclass(kw_only=True)
class GAEConfig(EstimatorConfig):
    """Generalised advantage estimation, arXiv 1506.02438, as PPO uses it."""

    needs_critic: ClassVar[bool] = True
    token_level: ClassVar[bool] = True
    use: ClassVar[str] = (
        "Long responses or rewards per token, where a baseline per token is worth a second model."
    )
    watch: ClassVar[str] = (
        "At a `critic/vf_explained_var` of 0 or below the values only add noise: train the critic "
        "first (`critic.warmup_only_steps`)."
    )

    kind: str = "gae"
    gamma: float = number(
        1.0, at_least=0, at_most=1, hint="1.0 is usual for responses", help="discount per token"
    )
    lam: float = number(
        1.0,
        at_least=0,
        at_most=1,
        hint="1.0 is usual for responses",
        help="1: not biased by the critic; lower: less variance",
    )
    whiten: bool = option(
        True,
        help="give the advantages of the batch's tokens mean 0 and deviation 1; never the returns",
    )


@estimators.register("gae", GAEConfig)
def gae(inputs: AdvantageInputs, config: GAEConfig) -> Advantages:
    """A_t = delta_t + gamma lam A_{t+1}, delta_t = r_t + gamma V_{t+1} - V_t; R = A + V.

    The value after the last token is 0. Returns use A before whitening.
    """
    assert inputs.values_PGL is not None, "GAE needs the critic's values"
    tokens_PGL = _trained_tokens(inputs)
    values_PGL = torch.where(tokens_PGL, inputs.values_PGL.double(), 0.0)
    next_values_PGL = torch.cat([values_PGL[..., 1:], torch.zeros_like(values_PGL[..., :1])], 2)
    rewards_PGL = _paid_rewards(inputs, inputs.rewards_PG)
    deltas_PGL = rewards_PGL + config.gamma * next_values_PGL - values_PGL
    advantages_PGL = _only(tokens_PGL, _discounted_sums(deltas_PGL, config.gamma * config.lam))
    returns_PGL = advantages_PGL + values_PGL
    if config.whiten:
        advantages_PGL = whiten(advantages_PGL, counts_PGL=tokens_PGL)
    return Advantages(advantages_PGL=advantages_PGL, returns_PGL=returns_PGL)


@dataclass(kw_only=True)
class ReinforcePPConfig(EstimatorConfig):
    """REINFORCE++, arXiv 2501.03262: the batch is the baseline; one sample is enough."""

    token_level: ClassVar[bool] = True
    use: ClassVar[str] = (
        "One response per prompt, no critic, and KL in the reward: the batch is the baseline."
    )
    watch: ClassVar[str] = (
        "Without a baseline per prompt every response to an easy prompt is pushed up, and to a "
        "hard one down: keep batches large and mixed."
    )

    kind: str = "reinforce_pp"
    gamma: float = number(
        1.0, at_least=0, at_most=1, hint="1.0 is usual for responses", help="discount per token"
    )


@estimators.register("reinforce_pp", ReinforcePPConfig)
def reinforce_pp(inputs: AdvantageInputs, config: ReinforcePPConfig) -> Advantages:
    """Discounted return of each token, whitened over the batch's tokens (population std)."""
    tokens_PGL = _trained_tokens(inputs)
    returns_PGL = _discounted_sums(_paid_rewards(inputs, inputs.rewards_PG), config.gamma)
    advantages_PGL = whiten(_only(tokens_PGL, returns_PGL), counts_PGL=tokens_PGL)
    return Advantages(advantages_PGL=advantages_PGL)


@dataclass(kw_only=True)
class ReinforcePPBaselineConfig(EstimatorConfig):
    """REINFORCE++ with the group's mean as baseline, arXiv 2501.03262."""

    needs_group: ClassVar[bool] = True
    token_level: ClassVar[bool] = True
    use: ClassVar[str] = (
        "Groups as in grpo, but one scale for the whole batch, so that no prompt counts more for "
        "rewards that hardly differ."
    )
    watch: ClassVar[str] = (
        "When nearly all rewards are equal the few that differ get very large advantages "
        "(`critic/advantages/max`)."
    )

    kind: str = "reinforce_pp_baseline"


@estimators.register("reinforce_pp_baseline", ReinforcePPBaselineConfig)
def reinforce_pp_baseline(inputs: AdvantageInputs, config: ReinforcePPBaselineConfig) -> Advantages:
    """r - group mean, plus the sum of later token rewards, whitened over the batch's tokens.

    The paper keeps KL in the loss (k2): without token rewards there is one number per
    response, each counted once per token in the whitening. With them this follows the
    authors' code (OpenRLHF): the baseline is the mean of the outcome rewards alone, the
    penalty is added after it, undiscounted.
    """
    centred_PG = centred(inputs.rewards_PG.double())
    if inputs.token_rewards_PGL is None:
        advantages_PGL = centred_PG[..., None]
        return Advantages(
            advantages_PGL=whiten(advantages_PGL, counts_PGL=inputs.lengths_PG[..., None])
        )
    tokens_PGL = _trained_tokens(inputs)
    # Without a baseline the last token's reward is NaN, and so is every sum that holds it.
    returns_PGL = _discounted_sums(_paid_rewards(inputs, centred_PG), 1.0)
    return Advantages(advantages_PGL=whiten(_only(tokens_PGL, returns_PGL), counts_PGL=tokens_PGL))
