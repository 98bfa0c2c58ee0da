"""From groups to mini-batches: numbers stay with their responses, whatever the split."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from episodes import in_two_trajectories
from packed_groups import random_groups

from rlpost.algorithms.advantages import GAEConfig, GDPOConfig, GRPOConfig, ReMaxConfig
from rlpost.algorithms.kl import KLConfig, KLForm, KLPlacement
from rlpost.algorithms.losses import ClipConfig
from rlpost.algorithms.losses.covariance import KLCovConfig
from rlpost.algorithms.reduce import Aggregation, ReductionConfig
from rlpost.algorithms.shaping import ShapingConfig
from rlpost.config.schema import AlgorithmConfig, RLConfig
from rlpost.stages.rl.batch import Scores, estimate, mini_batches, raw_statistics, scoring_batch
from rlpost.stages.rl.units import numbered
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
            episodes=tuple(
                replace(e, reward=reward) for e, reward in zip(group.episodes, row, strict=True)
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


def answers(groups, value):
    """One array per trajectory, as a model's answer would be."""
    return {
        each.number: np.array([value(each.number, i) for i in range(each.trajectory.num_sampled)])
        for each in numbered(groups)
    }


def shifted(groups, by):
    """The sampler's log-probs, and something added: those of another model."""
    return {e.number: np.asarray(e.trajectory.rollout_logprobs) + by for e in numbered(groups)}


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
        values=answers(GROUPS, lambda n, i: n + i / 100),
        ref_logprobs=answers(GROUPS, lambda n, i: -n - i / 100),
    )
    advantages, _ = estimate(GROUPS, scores, cfg=cfg, kl_coefficient=0.0)
    for part in mini_batches(GROUPS, advantages, scores, cfg=cfg, seed=0):
        for batches in part.batches:
            for batch in batches:
                c = batch.columns
                np.testing.assert_allclose(c["rollout_values_R"], -c["ref_logprobs_R"])
                # gamma = lambda = 1: the return of every token is the response's reward
                rewards = [e.reward for g in GROUPS for e in g.episodes]
                wanted = [rewards[n] for n in batch.number_I[batch.item_R]]
                np.testing.assert_allclose(c["returns_R"], wanted, atol=1e-6)
                np.testing.assert_allclose(
                    c["advantages_R"], c["returns_R"] - c["rollout_values_R"], atol=1e-6
                )


def test_kl_in_the_reward_is_paid_token_by_token():
    kl = KLConfig(coefficient=0.5, placement=KLPlacement.reward, form=KLForm.k1)
    cfg = config(GAEConfig(whiten=False), kl=kl)
    scores = Scores(values=answers(GROUPS, lambda n, i: 0.0), ref_logprobs=shifted(GROUPS, -1.0))
    assert scores.kl(GROUPS) == pytest.approx(1.0)
    advantages, rewards_PG = estimate(GROUPS, scores, cfg=cfg, kl_coefficient=0.5)
    length = GROUPS[0].episodes[0].num_sampled
    expected = [1.0 - 0.5 * (length - i) for i in range(length)]
    assert advantages.advantages_PGL[0, 0, :length].tolist() == pytest.approx(expected)
    assert rewards_PG[0, 0] == pytest.approx(1.0 - 0.5 * length)
    assert rewards_PG[2, 1].isnan()


def of_two_trajectories(groups):
    """The same groups; the first response's tokens lie in two trajectories."""
    first, *rest = groups
    response, *others = first.episodes
    return [replace(first, episodes=(in_two_trajectories(response), *others)), *rest]


def in_two(values):
    """The same answers by the numbers that trajectories have in ``of_two_trajectories``."""
    half = len(values[0]) // 2
    moved = {number + 1: each for number, each in values.items() if number > 0}
    return {0: values[0][:half], 1: values[0][half:], **moved}


@pytest.mark.parametrize("reduction", list(Aggregation), ids=lambda each: each.value)
def test_how_an_episodes_tokens_lie_in_trajectories_changes_none_of_their_numbers(reduction):
    """Observations and a second trajectory: advantage, return, weight and selection stay."""
    kl = KLConfig(coefficient=0.5, placement=KLPlacement.reward, form=KLForm.k1)
    constant = 9 if reduction is Aggregation.constant else None
    cfg = config(
        GAEConfig(gamma=0.9, lam=0.8),
        kl=kl,
        loss=KLCovConfig(fraction=0.5),
        reduction=ReductionConfig(aggregation=reduction, constant_tokens=constant),
        shaping=ShapingConfig(overlong_buffer=10),
    )
    cfg.rollout.max_tokens = 12

    def columns(groups, split=lambda values: values):
        scores = Scores(
            values=split(answers(GROUPS, lambda n, i: n / 10 + i / 7)),
            ref_logprobs=split(shifted(GROUPS, -1.0)),
        )
        advantages, rewards_PG = estimate(groups, scores, cfg=cfg, kl_coefficient=0.5)
        (part,) = mini_batches(groups, advantages, scores, cfg=cfg, seed=0)
        return part, scores.kl(groups), rewards_PG

    whole, whole_kl, whole_rewards_PG = columns(GROUPS)
    parts, parts_kl, parts_rewards_PG = columns(of_two_trajectories(GROUPS), in_two)
    assert GROUPS[0].episodes[0].num_sampled > 3 and parts_kl == whole_kl
    assert torch.equal(parts_rewards_PG.nan_to_num(9.0), whole_rewards_PG.nan_to_num(9.0))
    names = (
        *("weight_R", "advantages_R", "returns_R", "rollout_logprobs_R"),
        *("ref_logprobs_R", "rollout_values_R", "selected_R"),
    )
    for name in names:
        found, wanted = parts.column(name), in_two(whole.column(name))
        assert found.keys() == wanted.keys()
        for number, values in wanted.items():
            np.testing.assert_array_equal(found[number], values, err_msg=name)


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
        replace(g, episodes=tuple(with_verdicts(e, n) for n, e in enumerate(g.episodes)))
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
        replace(g, episodes=tuple(judged(e, n) for n, e in enumerate(g.episodes)))
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
        replace(g, episodes=tuple(replace(t, reward=float(n), verdicts=(
            Verdict(verifier="f", reward=1.0), Verdict(verifier="g", reward=float(n)),
            Verdict(verifier="rm", reward=n / 7))) for n, t in enumerate(g.episodes)))
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
