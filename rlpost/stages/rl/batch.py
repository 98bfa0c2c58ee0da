"""Groups -> mini-batches: scores of other models, shaped rewards, advantages, packing.

Owns the order of these and the bookkeeping between episodes and trajectories. Refuses to
own formulas (algorithms/), units and weights (units.py) and when a model is asked (job.py).
Invariants: what a model said about a token stays with that token whatever the split;
every mini-batch has denominators of its own, over all its micro-batches and ranks.

Legend: P groups, G episodes of a group (padded), L sampled tokens of an episode, those of its
trajectories laid end to end (padded).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlpost.algorithms.advantages import (
    AdvantageInputs,
    Advantages,
    GroupStatistics,
    estimators,
    group_statistics,
    leave_out,
    rewards_matrix,
)
from rlpost.algorithms.kl import KLPlacement, kl_token_rewards
from rlpost.algorithms.losses.covariance import token_selection
from rlpost.algorithms.shaping import shape_rewards
from rlpost.config.schema import RLConfig
from rlpost.stages.rl.units import Packing, by_number, numbered, pack_to_score, pack_to_train
from rlpost.training.packing.pack import Packed
from rlpost.training.packing.work import BY_TOKENS, ForwardWork
from rlpost.types import Episode, Group

Scored = Mapping[int, np.ndarray]  # number of a trajectory -> one value per sampled token


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What other models said about the responses; None where nobody was asked."""

    ref_logprobs: Scored | None = None
    proximal_logprobs: Scored | None = None
    values: Scored | None = None
    greedy_rewards: Sequence[float | None] | None = None  # per group

    def kl(self, groups: Sequence[Group]) -> float:
        """Mean of log pi - log pi_ref over sampled tokens (nats), of the sampler."""
        assert self.ref_logprobs is not None
        gaps = [
            np.asarray(each.trajectory.rollout_logprobs) - self.ref_logprobs[each.number]
            for each in numbered(groups)
            if each.number in self.ref_logprobs
        ]
        return float(np.concatenate(gaps).mean()) if gaps else float("nan")


def scoring_batch(
    groups: Sequence[Group], cfg: RLConfig, *, work: ForwardWork = BY_TOKENS
) -> Packed:
    """Pack every usable response, to be scored only."""
    return pack_to_score(groups, _packing(cfg, work))


def raw_statistics(groups: Sequence[Group], cfg: RLConfig) -> GroupStatistics:
    """Return which groups were solved by all, by none, or by some; rewards as judged.

    Beside a reward model, whose scores are never equal, the verifiers alone are asked, if there
    are any.
    """
    if not cfg.reward_models or not cfg.all_verifiers:
        return group_statistics(rewards_matrix([g.rewards for g in groups]))
    measured = cfg.combination.measuring(cfg.all_verifiers)
    return group_statistics(
        rewards_matrix([[measured.combine(e.verdicts) for e in g.episodes] for g in groups])
    )


def estimate(
    groups: Sequence[Group], scores: Scores, *, cfg: RLConfig, kl_coefficient: float
) -> tuple[Advantages, Tensor]:
    """Shape the rewards and estimate advantages; groups without a gradient are NaN.

    Returns:
        Advantages, and the (P, G) rewards they were made of, KL penalty included.
    """
    algorithm = cfg.algorithm
    lengths_PG = _lengths(groups)
    rewards_PG = shape_rewards(
        rewards_matrix([g.rewards for g in groups]),
        lengths_PG=lengths_PG,
        max_tokens=cfg.rollout.max_tokens,
        config=algorithm.shaping,
    )
    inputs = AdvantageInputs(
        rewards_PG=rewards_PG,
        lengths_PG=lengths_PG,
        greedy_rewards_P=_greedy(scores),
        token_rewards_PGL=_kl_penalty(groups, scores, cfg=cfg, coefficient=kl_coefficient),
        values_PGL=None if scores.values is None else _padded(groups, scores.values),
        **(_components(groups, cfg) if algorithm.advantage.needs_components else {}),
    )
    advantages = estimators.get(algorithm.advantage.kind).target(inputs, algorithm.advantage)
    kl_in_loss = algorithm.kl.coefficient > 0 and algorithm.kl.placement is KLPlacement.loss
    other_gradient = kl_in_loss or algorithm.entropy_coefficient != 0
    if algorithm.advantage.zero_when_equal and not other_gradient:
        equal_P = group_statistics(rewards_PG).zero_variance_P
        advantages = Advantages(advantages_PGL=leave_out(advantages.advantages_PGL, equal_P))
    if inputs.token_rewards_PGL is not None:
        rewards_PG = rewards_PG + inputs.token_rewards_PGL.sum(2)
    return advantages, rewards_PG


def mini_batches(
    groups: Sequence[Group],
    advantages: Advantages,
    scores: Scores,
    *,
    cfg: RLConfig,
    seed: int,
    oldest_version: int = 0,
    work: ForwardWork = BY_TOKENS,
) -> list[Packed]:
    """Deal the groups that carry a gradient to the mini-batches in turn, and pack each.

    The result has at most ``algorithm.mini_batches`` entries, none of them empty. Tokens of
    weights older than ``oldest_version`` are not trained on. Ranks are balanced by ``work``.
    """
    advantages_PGL = advantages.advantages_PGL.numpy()
    trained = np.flatnonzero(~np.isnan(advantages_PGL[:, :, 0]).all(axis=1))
    returns_PGL = advantages.returns_PGL
    returns = None if returns_PGL is None else by_number(groups, returns_PGL.numpy())
    result = []
    for first in range(cfg.algorithm.mini_batches):
        mine_PGL = np.full_like(advantages_PGL, np.nan)
        rows = trained[first :: cfg.algorithm.mini_batches]
        mine_PGL[rows] = advantages_PGL[rows]
        packed = pack_to_train(
            groups,
            mine_PGL,
            packing=_packing(cfg, work),
            reduction=cfg.algorithm.reduction,
            oldest_version=oldest_version,
        )
        if packed.is_empty:
            continue
        packed = packed.attach(
            ref_logprobs_R=scores.ref_logprobs,
            proximal_logprobs_R=scores.proximal_logprobs,
            rollout_values_R=scores.values,
            returns_R=returns,
            selected_R=_selection(groups, mine_PGL, cfg=cfg, seed=seed),
        )
        result.append(packed)
    return result


def _packing(cfg: RLConfig, work: ForwardWork) -> Packing:
    return Packing(
        num_ranks=cfg.trainer.data_ranks,
        max_tokens=cfg.trainer.max_tokens_per_micro_batch,
        share_prompts=cfg.trainer.share_prompts,
        work=work,
    )


def _lengths(groups: Sequence[Group]) -> Tensor:
    width = max((len(g.episodes) for g in groups), default=1) or 1
    lengths_PG = torch.zeros(len(groups), width, dtype=torch.int64)
    for p, group in enumerate(groups):
        for g, episode in enumerate(group.episodes):
            lengths_PG[p, g] = episode.num_sampled
    return lengths_PG


def _padded(groups: Sequence[Group], values: Scored) -> Tensor:
    """Undo ``by_number``: float64 (P, G, L), 0 beyond the end and where missing."""
    lengths_PG = _lengths(groups)
    padded_PGL = torch.zeros(*lengths_PG.shape, max(1, int(lengths_PG.max())), dtype=torch.float64)
    for each in numbered(groups):
        if each.number in values:
            padded_PGL[each.group, each.place, each.tokens] = torch.tensor(values[each.number])
    return padded_PGL


def _greedy(scores: Scores) -> Tensor | None:
    if scores.greedy_rewards is None:
        return None
    return rewards_matrix([[reward] for reward in scores.greedy_rewards])[:, 0]


def _kl_penalty(
    groups: Sequence[Group], scores: Scores, *, cfg: RLConfig, coefficient: float
) -> Tensor | None:
    kl = cfg.algorithm.kl
    if kl.placement is not KLPlacement.reward or kl.coefficient == 0:
        return None
    assert scores.ref_logprobs is not None
    rollout = {
        each.number: np.asarray(each.trajectory.rollout_logprobs)
        for each in numbered(groups)
        if each.number in scores.ref_logprobs
    }
    return kl_token_rewards(
        _padded(groups, rollout),
        _padded(groups, scores.ref_logprobs),
        coefficient=coefficient,
        form=kl.form,
    )


def _components(groups: Sequence[Group], cfg: RLConfig) -> dict[str, Tensor]:
    """Rewards by judge, for estimators that normalise each."""
    weights = {name: weight for name, weight in cfg.combination.weights.items() if weight}
    components = [
        rewards_matrix([[_reward_of(e, name) for e in g.episodes] for g in groups])
        for name in weights
    ]
    return {
        "components_PGK": torch.stack(components, dim=2),
        "component_weights_K": torch.tensor(list(weights.values()), dtype=torch.float64),
    }


def _reward_of(episode: Episode, name: str) -> float | None:
    return next((v.reward for v in episode.verdicts if v.verifier == name), None)


def _selection(
    groups: Sequence[Group], advantages_PGL: np.ndarray, *, cfg: RLConfig, seed: int
) -> Scored | None:
    """Choose the tokens that a loss treats differently, over the whole mini-batch."""
    select = token_selection(cfg.loss)
    if select is None:
        return None
    chosen = select(
        list(by_number(groups, advantages_PGL).values()),
        rollout_logprobs=[np.asarray(e.trajectory.rollout_logprobs) for e in numbered(groups)],
        config=cfg.loss,
        seed=seed,
    )
    return dict(enumerate(chosen))
