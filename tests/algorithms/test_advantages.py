"""Group advantages against hand-computed numbers and a per-group reference."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlpost.algorithms.advantages import (
    DrGRPOConfig,
    GRPOConfig,
    RLOOConfig,
    check_group_size,
    dr_grpo,
    estimators,
    group_statistics,
    grpo,
    leave_out,
    rewards_matrix,
    rloo,
)
from rlpost.errors import DataError, UserError

reward_groups = st.lists(
    st.lists(st.one_of(st.none(), st.floats(-5, 5).map(lambda x: round(x, 3))), max_size=6),
    max_size=5,
)


def reference(group, kind):
    """One group in plain Python; None where there is nothing to train on."""
    usable = [r for r in group if r is not None]
    if len(usable) < 2:
        return [None] * len(group)
    mean, std = statistics.fmean(usable), statistics.stdev(usable)
    result = []
    for reward in group:
        if reward is None:
            result.append(None)
        elif kind == "grpo":
            result.append((reward - mean) / (std + 1e-4))
        elif kind == "dr_grpo":
            result.append(reward - mean)
        else:
            result.append(reward - (sum(usable) - reward) / (len(usable) - 1))
    return result


def test_grpo_by_hand():
    # mean 0.5, unbiased std of (1, 0, 0, 1) = sqrt(4 * 0.25 / 3) = 0.57735
    advantages = grpo(rewards_matrix([[1, 0, 0, 1]]), GRPOConfig())
    expected = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    assert advantages.tolist()[0] == pytest.approx([expected, -expected, -expected, expected])


def test_grpo_without_deviation_is_dr_grpo():
    rewards = rewards_matrix([[1, 0, 0.5], [3, 3, 0]])
    plain = grpo(rewards, GRPOConfig(normalize_std=False))
    assert torch.equal(plain, dr_grpo(rewards, DrGRPOConfig()))
    assert not torch.allclose(plain, grpo(rewards, GRPOConfig()))


def test_rloo_by_hand():
    # others' means: (0 + 3)/2, (1 + 3)/2, (1 + 0)/2
    assert rloo(rewards_matrix([[1, 0, 3]]), RLOOConfig()).tolist()[0] == pytest.approx(
        [-0.5, -2.0, 2.5]
    )


def test_missing_reward_leaves_mean_and_deviation_alone():
    with_gap = grpo(rewards_matrix([[1, None, 0, 1]]), GRPOConfig())[0]
    without = grpo(rewards_matrix([[1, 0, 1]]), GRPOConfig())[0]
    assert with_gap[1].isnan()
    assert with_gap[[0, 2, 3]].tolist() == pytest.approx(without.tolist())
    # Negative control: a failure counted as reward 0 changes the others' advantages.
    as_zero = grpo(rewards_matrix([[1, 0, 0, 1]]), GRPOConfig())[0]
    assert abs(as_zero[0] - without[0]) > 0.1


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo"])
@pytest.mark.parametrize("group", [[1.0], [1.0, None], [None, None], []])
def test_no_baseline_means_no_advantage(kind, group):
    entry = estimators.get(kind)
    rewards = rewards_matrix([group])
    assert entry.target(rewards, entry.config()).isnan().all()
    assert group_statistics(rewards).too_few_P.tolist() == [True]


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo"])
@given(groups=reward_groups)
def test_every_estimator_equals_its_reference(kind, groups):
    entry = estimators.get(kind)
    advantages = entry.target(rewards_matrix(groups), entry.config()).tolist()
    assert len(advantages) == len(groups)
    for row, group in zip(advantages, groups, strict=True):
        for value, expected in zip(row, reference(group, kind), strict=False):
            if expected is None:
                assert math.isnan(value)
            else:
                assert value == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert all(math.isnan(value) for value in row[len(group) :])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_give_exactly_zero(dtype):
    rewards = torch.full((1, 7), 0.1, dtype=dtype)
    assert grpo(rewards, GRPOConfig()).tolist() == [[0.0] * 7]


def test_statistics_by_hand():
    statistics_ = group_statistics(
        rewards_matrix([[1, 1, None], [0, 0, 0], [0.5, 0.5, 0.5], [0, 1, 1], [1, None, None]])
    )
    assert statistics_.zero_variance_P.tolist() == [True, True, True, False, False]
    assert statistics_.all_pass_P.tolist() == [True, False, False, False, False]
    assert statistics_.all_fail_P.tolist() == [False, True, False, False, False]
    assert statistics_.metrics() == {
        "group/zero_std_frac": 0.75,
        "group/all_pass_frac": 0.25,
        "group/all_fail_frac": 0.25,
        "group/too_few_samples": 1.0,
    }


def test_statistics_of_nothing_are_absent_not_zero():
    assert group_statistics(rewards_matrix([])).metrics() == {"group/too_few_samples": 0.0}


def test_left_out_groups_are_nan_and_others_untouched():
    rewards = rewards_matrix([[1, 1], [0, 1]])
    advantages = dr_grpo(rewards, DrGRPOConfig())
    kept = leave_out(advantages, group_statistics(rewards).zero_variance_P)
    assert kept[0].isnan().all()
    assert kept[1].tolist() == [-0.5, 0.5]
    assert advantages[0].tolist() == [0, 0]  # the input is not written to


def test_infinite_reward_names_its_place():
    with pytest.raises(DataError, match="group 1, sample 0: reward is inf"):
        rewards_matrix([[1.0], [math.inf]])


def test_group_of_one_is_refused_with_the_setting():
    check_group_size(2)
    with pytest.raises(UserError, match=r"rollout\.group_size must be at least 2, got 1"):
        check_group_size(1)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf])
def test_epsilon_must_be_positive(epsilon):
    GRPOConfig().check()
    with pytest.raises(UserError, match=r"algorithm\.advantage\.epsilon must be positive"):
        GRPOConfig(epsilon=epsilon).check()
