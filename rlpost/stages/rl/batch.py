"""Groups -> mini-batches: scores of other models, shaped rewards, advantages, packing.

Owns the order of these and the bookkeeping between groups and sequence numbers. Refuses to
own formulas (algorithms/), units and weights (units.py) and when a model is asked (job.py).
Invariants: what a model said about a response stays with that response whatever the split;
every mini-batch has denominators of its own, over all its micro-batches and ranks.

Legend: P groups, G trajectories of a group (padded), L response tokens (padded). A sequence
number is a trajectory's place in ``[t for g in groups for t in g.trajectories]``.
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
from rlpost.stages.rl.units import (
    Packing,
    numbered,
    pack_to_score,
    pack_to_train,
    sampled_tokens,
)
from rlpost.training.packing.pack import Packed
from rlpost.types import Group, Trajectory

BySequence = Mapping[int, np.ndarray]  # sequence number -> one value per response token


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What other models said about the responses; None where nobody was asked."""

    ref_logprobs: BySequence | None = None
    proximal_logprobs: BySequence | None = None
    values: BySequence | None = None
    greedy_rewards: Sequence[float | None] | None = None  # per group

    def kl(self, groups: Sequence[Group]) -> float:
        """Mean of log pi - log pi_ref over response tokens (nats), of the sampler."""
        assert self.ref_logprobs is not None
        gaps = [
            (np.asarray(trajectory.rollout_logprobs) - self.ref_logprobs[number])[
                sampled_tokens(trajectory)
            ]
            for number, trajectory in numbered(groups)
            if number in self.ref_logprobs
        ]
        return float(np.concatenate(gaps).mean()) if gaps else float("nan")


def scoring_batch(groups: Sequence[Group], cfg: RLConfig) -> Packed:
    """Pack every usable response, to be scored only."""
    return pack_to_score(groups, _packing(cfg))


def raw_statistics(groups: Sequence[Group], cfg: RLConfig) -> GroupStatistics:
    """Return which groups were solved by all, by none, or by some; rewards as judged.

    Beside a reward model, whose scores are never equal, the verifiers alone are asked.
    """
    if not cfg.reward_models:
        return group_statistics(rewards_matrix([g.rewards for g in groups]))
    measured = cfg.combination.measuring(cfg.all_verifiers)
    return group_statistics(
        rewards_matrix([[measured.combine(t.verdicts) for t in g.trajectories] for g in groups])
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
    groups: Sequence[Group], advantages: Advantages, scores: Scores, *, cfg: RLConfig, seed: int
) -> list[Packed]:
    """Deal the groups that carry a gradient to the mini-batches in turn, and pack each.

    The result has at most ``algorithm.mini_batches`` entries, none of them empty.
    """
    advantages_PGL = advantages.advantages_PGL.numpy()
    trained = np.flatnonzero(~np.isnan(advantages_PGL[:, :, 0]).all(axis=1))
    result = []
    for first in range(cfg.algorithm.mini_batches):
        mine_PGL = np.full_like(advantages_PGL, np.nan)
        rows = trained[first :: cfg.algorithm.mini_batches]
        mine_PGL[rows] = advantages_PGL[rows]
        packed = pack_to_train(
            groups, mine_PGL, packing=_packing(cfg), reduction=cfg.algorithm.reduction
        )
        if packed.is_empty:
            continue
        packed = packed.attach(
            ref_logprobs_R=scores.ref_logprobs,
            proximal_logprobs_R=scores.proximal_logprobs,
            rollout_values_R=scores.values,
            returns_R=_by_sequence(groups, advantages.returns_PGL),
            selected_R=_selection(groups, mine_PGL, cfg=cfg, seed=seed),
        )
        result.append(packed)
    return result


def _packing(cfg: RLConfig) -> Packing:
    return Packing(
        num_ranks=cfg.trainer.num_ranks,
        max_tokens=cfg.trainer.max_tokens_per_micro_batch,
        share_prompts=cfg.trainer.share_prompts,
    )


def _lengths(groups: Sequence[Group]) -> Tensor:
    width = max((len(g.trajectories) for g in groups), default=1) or 1
    lengths_PG = torch.zeros(len(groups), width, dtype=torch.int64)
    for p, group in enumerate(groups):
        for g, trajectory in enumerate(group.trajectories):
            lengths_PG[p, g] = len(trajectory.response_ids)
    return lengths_PG


def _padded(groups: Sequence[Group], values: BySequence) -> Tensor:
    """Lay values per sequence out as float64 (P, G, L), 0 beyond the end and where missing."""
    lengths_PG = _lengths(groups)
    padded_PGL = torch.zeros(*lengths_PG.shape, max(1, int(lengths_PG.max())), dtype=torch.float64)
    number = 0
    for p, group in enumerate(groups):
        for g in range(len(group.trajectories)):
            if number in values:
                padded_PGL[p, g, : len(values[number])] = torch.tensor(values[number])
            number += 1
    return padded_PGL


def _by_sequence(groups: Sequence[Group], values_PGL: Tensor | None) -> BySequence | None:
    """Undo ``_padded``; NaN stays where nothing is trained on."""
    if values_PGL is None:
        return None
    places = [(p, g) for p, group in enumerate(groups) for g in range(len(group.trajectories))]
    return {
        number: values_PGL[place].numpy()[: len(trajectory.response_ids)]
        for (number, trajectory), place in zip(numbered(groups), places, strict=True)
    }


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
    # What was written into a response costs nothing.
    rollout = {
        n: np.where(sampled_tokens(t), t.rollout_logprobs, scores.ref_logprobs[n])
        for n, t in numbered(groups)
        if n in scores.ref_logprobs
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
        rewards_matrix([[_reward_of(t, name) for t in g.trajectories] for g in groups])
        for name in weights
    ]
    return {
        "components_PGK": torch.stack(components, dim=2),
        "component_weights_K": torch.tensor(list(weights.values()), dtype=torch.float64),
    }


def _reward_of(trajectory: Trajectory, name: str) -> float | None:
    return next((v.reward for v in trajectory.verdicts if v.verifier == name), None)


def _selection(
    groups: Sequence[Group], advantages_PGL: np.ndarray, *, cfg: RLConfig, seed: int
) -> BySequence | None:
    """Choose the tokens that a loss treats differently, over the whole mini-batch."""
    select = token_selection(cfg.loss)
    if select is None:
        return None
    places = [(p, g) for p, group in enumerate(groups) for g in range(len(group.trajectories))]
    advantages, logprobs = [], []
    for (_, trajectory), place in zip(numbered(groups), places, strict=True):
        length = len(trajectory.response_ids)
        values_L = advantages_PGL[place]
        values_L = np.repeat(values_L, length) if len(values_L) == 1 else values_L[:length]
        advantages.append(np.where(sampled_tokens(trajectory), values_L, np.nan))
        logprobs.append(np.asarray(trajectory.rollout_logprobs))
    chosen = select(advantages, rollout_logprobs=logprobs, config=cfg.loss, seed=seed)
    return dict(enumerate(chosen))
