"""From groups to mini-batches: numbers stay with their responses, whatever the split."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from packed_groups import random_groups

from rlpost.algorithms.advantages import GAEConfig, GDPOConfig, GRPOConfig, ReMaxConfig
from rlpost.algorithms.kl import KLConfig, KLForm, KLPlacement
from rlpost.algorithms.losses import ClipConfig
from rlpost.algorithms.losses.covariance import KLCovConfig
from rlpost.config.schema import AlgorithmConfig, RLConfig
from rlpost.stages.rl.batch import Scores, estimate, mini_batches, raw_statistics, scoring_batch
from rlpost.training.reward.settings import RewardModelConfig
from rlpost.types import Verdict
from rlpost.verifiers.kinds.exact import ExactConfig
from rlpost.verifiers.kinds.function import FunctionConfig


def judged_groups(rewards):
    """Random groups with the given rewards, one row per group."""
    groups, _ = random_groups(num_prompts=len(rewards), group_size=len(rewards[0]))
    return [
        replace(
            group,
            trajectories=tuple(
                replace(t, reward=reward) for t, reward in zip(group.trajectories, row, strict=True)
            ),
        )
        for group, row in zip(groups, rewards, strict=True)
    ]


def config(advantage, loss=None, **algorithm):
    return RLConfig(
        verifier=ExactConfig(),
        loss=loss or ClipConfig(),
        algorithm=AlgorithmConfig(advantage=advantage, **algorithm),
    )


def numbered(groups, value):
    """One array per sequence number, as a model's answer would be."""
    trajectories = [t for g in groups for t in g.trajectories]
    return {n: np.array([value(n, i) for i in range(len(t.response_ids))]) for n, t in
            enumerate(trajectories)}  # fmt: skip


GROUPS = judged_groups([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.5, None, 0.0], [1.0, 0.0, 0.0]])


def test_everything_usable_is_scored():
    packed = scoring_batch(GROUPS, config(GRPOConfig()))
    scored = {int(n) for rank in packed.batches for b in rank for n in b.number_I}
    assert scored == set(range(12)) - {7}  # the one without a reward


def test_groups_without_a_gradient_are_left_out_unless_something_else_pulls():
    advantages, _ = estimate(GROUPS, Scores(), cfg=config(GRPOConfig()), kl_coefficient=0.0)
    assert advantages.advantages_PGL[1].isnan().all()
    with_kl = config(GRPOConfig(), kl=KLConfig(coefficient=0.1))
    advantages, _ = estimate(GROUPS, Scores(), cfg=with_kl, kl_coefficient=0.1)
    assert (advantages.advantages_PGL[1] == 0).all()
    assert raw_statistics(GROUPS, with_kl).all_fail_P.tolist() == [False, True, False, False]


def test_mini_batches_share_the_groups_out_with_denominators_of_their_own():
    cfg = config(GRPOConfig(), mini_batches=2)
    advantages, _ = estimate(GROUPS, Scores(), cfg=cfg, kl_coefficient=0.0)
    parts = mini_batches(GROUPS, advantages, Scores(), cfg=cfg, seed=0)
    numbers = [
        {int(n) for rank in part.batches for b in rank for n in b.number_I} for part in parts
    ]
    assert numbers == [{0, 1, 2, 9, 10, 11}, {6, 8}]
    for part in parts:
        assert sum(
            b.columns["weight_R"].sum() for rank in part.batches for b in rank
        ) == pytest.approx(1)


def test_scores_follow_their_responses():
    cfg = config(GAEConfig(whiten=False), mini_batches=2)
    scores = Scores(
        values=numbered(GROUPS, lambda n, i: n + i / 100),
        ref_logprobs=numbered(GROUPS, lambda n, i: -n - i / 100),
    )
    advantages, _ = estimate(GROUPS, scores, cfg=cfg, kl_coefficient=0.0)
    for part in mini_batches(GROUPS, advantages, scores, cfg=cfg, seed=0):
        for batches in part.batches:
            for batch in batches:
                c = batch.columns
                np.testing.assert_allclose(c["rollout_values_R"], -c["ref_logprobs_R"])
                # gamma = lambda = 1: the return of every token is the response's reward
                rewards = [t.reward for g in GROUPS for t in g.trajectories]
                wanted = [rewards[n] for n in batch.number_I[batch.item_R]]
                np.testing.assert_allclose(c["returns_R"], wanted, atol=1e-6)
                np.testing.assert_allclose(
                    c["advantages_R"], c["returns_R"] - c["rollout_values_R"], atol=1e-6
                )


def test_kl_in_the_reward_is_paid_token_by_token():
    kl = KLConfig(coefficient=0.5, placement=KLPlacement.reward, form=KLForm.k1)
    cfg = config(GAEConfig(whiten=False), kl=kl)
    trajectories = [t for g in GROUPS for t in g.trajectories]
    scores = Scores(
        values=numbered(GROUPS, lambda n, i: 0.0),
        ref_logprobs={n: np.asarray(t.rollout_logprobs) - 1.0 for n, t in enumerate(trajectories)},
    )
    assert scores.kl(GROUPS) == pytest.approx(1.0)
    advantages, rewards_PG = estimate(GROUPS, scores, cfg=cfg, kl_coefficient=0.5)
    length = len(trajectories[0].response_ids)
    expected = [1.0 - 0.5 * (length - i) for i in range(length)]
    assert advantages.advantages_PGL[0, 0, :length].tolist() == pytest.approx(expected)
    assert rewards_PG[0, 0] == pytest.approx(1.0 - 0.5 * length)
    assert rewards_PG[2, 1].isnan()


def written(groups, start, end):
    """The same groups, with tokens [start, end) of the first response written into it."""
    first, *rest = groups
    response, *others = first.trajectories
    assert end < len(response.response_ids)
    response = replace(response, written=(start, end))
    return [replace(first, trajectories=(response, *others)), *rest]


def test_what_was_written_into_a_response_is_nobodys_kl_and_never_selected():
    kl = KLConfig(coefficient=0.5, placement=KLPlacement.reward, form=KLForm.k1)
    groups = written(GROUPS, 0, 2)
    trajectories = [t for g in groups for t in g.trajectories]
    ref = {n: np.asarray(t.rollout_logprobs) - 1.0 for n, t in enumerate(trajectories)}
    ref[0][:2] = -50.0  # what the reference says of the phrase
    scores = Scores(values=numbered(groups, lambda n, i: 0.0), ref_logprobs=ref)
    assert scores.kl(groups) == pytest.approx(1.0)
    cfg = config(GAEConfig(whiten=False), kl=kl)
    _, rewards_PG = estimate(groups, scores, cfg=cfg, kl_coefficient=0.5)
    sampled = len(trajectories[0].response_ids) - 2
    assert rewards_PG[0, 0] == pytest.approx(1.0 - 0.5 * sampled)

    cfg = config(GRPOConfig(), loss=KLCovConfig(fraction=0.999))
    advantages, _ = estimate(groups, Scores(), cfg=cfg, kl_coefficient=0.0)
    (part,) = mini_batches(groups, advantages, Scores(), cfg=cfg, seed=0)
    chosen = part.column("selected_R")
    assert chosen[0][:2].tolist() == [False, False] and chosen[0][2:].any()


def test_the_greedy_response_is_the_baseline():
    scores = Scores(greedy_rewards=[1.0, 0.0, None, 0.5])
    advantages, _ = estimate(GROUPS, scores, cfg=config(ReMaxConfig()), kl_coefficient=0.0)
    assert advantages.advantages_PGL[0, :, 0].tolist() == [0.0, -1.0, 0.0]
    assert advantages.advantages_PGL[2].isnan().all()


def test_components_are_the_verdicts_of_each_source():
    def with_verdicts(t, n):
        parts = (Verdict(verifier="exact", reward=float(n % 2)),
                 Verdict(verifier="rm", reward=float(n)))  # fmt: skip
        return replace(t, verdicts=parts, reward=1.0)

    groups = [
        replace(g, trajectories=tuple(with_verdicts(t, n) for n, t in enumerate(g.trajectories)))
        for g in GROUPS[:2]
    ]
    cfg = config(GDPOConfig(batch_normalize=False))
    cfg.reward_models = {"rm": RewardModelConfig(path="somewhere", weight=0.0001)}
    advantages, _ = estimate(groups, Scores(), cfg=cfg, kl_coefficient=0.0)
    exact = torch.tensor([-1.0, 2.0, -1.0], dtype=torch.float64) / 3**0.5
    assert torch.allclose(advantages.advantages_PGL[0, :, 0], exact, atol=1e-3)


def two_functions(weights):
    """GROUPS[:2] judged by two functions, and the configuration of both."""

    cfg = config(GDPOConfig(batch_normalize=False))
    cfg.verifier = FunctionConfig(path=["r.py:f", "r.py:g"], weights=weights)

    def judged(t, n):
        parts = (Verdict(verifier="f", reward=float(n % 2)), Verdict(verifier="g", reward=n / 10))
        return replace(t, verdicts=parts, reward=cfg.combination.combine(parts))

    groups = [
        replace(g, trajectories=tuple(judged(t, n) for n, t in enumerate(g.trajectories)))
        for g in GROUPS[:2]
    ]
    return groups, cfg


def test_each_function_is_a_component():
    groups, cfg = two_functions([1.0, 1e-4])
    advantages, _ = estimate(groups, Scores(), cfg=cfg, kl_coefficient=0.0)
    f = torch.tensor([-1.0, 2.0, -1.0], dtype=torch.float64) / 3**0.5
    assert torch.allclose(advantages.advantages_PGL[0, :, 0], f, atol=1e-3)
    groups, cfg = two_functions([1e-4, 1.0])
    advantages, _ = estimate(groups, Scores(), cfg=cfg, kl_coefficient=0.0)
    g = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    assert torch.allclose(advantages.advantages_PGL[0, :, 0], g, atol=1e-2)


def test_beside_a_reward_model_groups_are_solved_by_the_verifiers_alone():
    groups, cfg = two_functions([1.0, 0.0])
    alike = [
        replace(g, trajectories=tuple(replace(t, reward=float(n), verdicts=(
            Verdict(verifier="f", reward=1.0), Verdict(verifier="g", reward=float(n)),
            Verdict(verifier="rm", reward=n / 7))) for n, t in enumerate(g.trajectories)))
        for g in groups
    ]  # fmt: skip
    assert not raw_statistics(alike, cfg).zero_variance_P.any()  # by the rewards as they are
    cfg.reward_models = {"rm": RewardModelConfig(path="somewhere")}
    assert raw_statistics(alike, cfg).all_pass_P.all()  # g has no weight
    cfg.verifier = FunctionConfig(path=["r.py:f", "r.py:g"], weights=[1.0, 0.5])
    assert not raw_statistics(alike, cfg).zero_variance_P.any()


def test_the_selection_does_not_depend_on_the_split():
    def chosen(**trainer):
        cfg = config(GRPOConfig(), loss=KLCovConfig(fraction=0.2))
        for name, value in trainer.items():
            setattr(cfg.trainer, name, value)
        advantages, _ = estimate(GROUPS, Scores(), cfg=cfg, kl_coefficient=0.0)
        (part,) = mini_batches(GROUPS, advantages, Scores(), cfg=cfg, seed=0)
        return part.column("selected_R")

    whole, split = chosen(), chosen(num_ranks=2, max_tokens_per_micro_batch=30)
    assert whole.keys() == split.keys()
    assert any(mask.any() for mask in whole.values())
    for number, mask in whole.items():
        assert mask.tolist() == split[number].tolist()
