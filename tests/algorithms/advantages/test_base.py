"""What estimators share: layout, statistics of groups, whitening, refusals."""

import math

import pytest
import torch
from omegaconf import OmegaConf

from rlpost.algorithms.advantages import (
    AdvantageInputs,
    EstimatorConfig,
    PassAtKConfig,
    check_group_size,
    estimators,
    group_statistics,
    leave_out,
    rewards_matrix,
)
from rlpost.algorithms.advantages.base import centred, whiten
from rlpost.bounds import check_config
from rlpost.errors import DataError, UserError

TRAITS = (
    "needs_group",
    "needs_critic",
    "needs_greedy",
    "needs_components",
    "token_level",
    "zero_when_equal",
    "min_group",
)


def ragged(*rows):
    return rewards_matrix(rows)


@pytest.mark.parametrize("entry", estimators, ids=lambda entry: entry.name)
def test_traits_are_no_options_and_survive_composition(entry):
    node = OmegaConf.structured(entry.config)
    assert not set(node) & set(TRAITS)
    config = OmegaConf.to_object(node)
    assert isinstance(config, EstimatorConfig)
    assert config.kind == entry.name
    assert config.needs_group == (config.min_group > 1)
    check_config(config, "algorithm.advantage")


def test_infinite_reward_names_its_place():
    with pytest.raises(DataError, match="group 1, sample 0: reward is inf"):
        rewards_matrix([[1.0], [math.inf]])


def test_group_of_one_is_refused_with_the_setting():
    check_group_size(2, minimum=2)
    check_group_size(1, minimum=1)
    with pytest.raises(UserError, match=r"rollout\.group_size must be at least 2, got 1"):
        check_group_size(1, minimum=2)
    with pytest.raises(UserError, match=r"rollout\.group_size must be at least 5, got 4"):
        check_group_size(4, minimum=PassAtKConfig(k=4).min_group)


def test_inputs_of_other_shapes_are_our_bug():
    rewards, lengths = ragged([1, 0]), torch.tensor([[2, 3]])
    AdvantageInputs(rewards_PG=rewards, lengths_PG=lengths, values_PGL=torch.zeros(1, 2, 3))
    for wrong in (
        {"values_PGL": torch.zeros(1, 2, 2)},  # the second response is cut off
        {"values_PGL": torch.full((1, 2, 3), torch.nan)},  # not finite within a response
        {"token_rewards_PGL": torch.zeros(1, 3)},
        {"greedy_rewards_P": torch.zeros(2)},
        {"components_PGK": torch.zeros(1, 2, 2)},  # without weights
    ):
        with pytest.raises(AssertionError):
            AdvantageInputs(rewards_PG=rewards, lengths_PG=lengths, **wrong)


def test_what_lies_past_the_end_or_in_a_missing_sample_may_be_anything():
    values = torch.tensor([[[0.5, torch.nan], [torch.nan, torch.inf]]])
    inputs = AdvantageInputs(
        rewards_PG=ragged([1, None]), lengths_PG=torch.tensor([[1, 2]]), values_PGL=values
    )
    assert inputs.tokens_PGL.tolist() == [[[True, False], [True, True]]]


def test_weighted_centre_by_hand():
    # (1 * 4 + 3 * 0) / 4 = 1
    assert centred(ragged([4, 0, None]), torch.tensor([[1, 3, 9]]))[0, :2].tolist() == [3, -1]


def test_whitening_by_hand():
    # values 1 (three tokens) and 5: mean 2, variance (3 * 1 + 9) / 4 = 3
    values = torch.tensor([[1.0, 5.0, torch.nan, 7.0]], dtype=torch.float64)
    result = whiten(values, counts_PGL=torch.tensor([[3, 1, 2, 0]]))[0]
    assert result[:2].tolist() == pytest.approx([-1 / math.sqrt(3), 3 / math.sqrt(3)], abs=1e-8)
    assert result[2:].isnan().all()


def test_whitening_without_variance_gives_zero():
    values = torch.tensor([[0.1, 0.1, 0.1, torch.nan]], dtype=torch.float64)
    assert whiten(values, counts_PGL=torch.ones(1, 4))[0, :3].tolist() == [0, 0, 0]
    # Rounding noise is not blown up to a deviation of 1.
    noisy = torch.tensor([[0.3, 0.1 + 0.2, 0.3]], dtype=torch.float64)
    assert whiten(noisy, counts_PGL=torch.ones(1, 3)).abs().max() < 1e-9


def test_whitening_nothing_is_safe():
    assert whiten(torch.full((2, 2), torch.nan), counts_PGL=torch.ones(2, 2)).isnan().all()
    assert whiten(torch.zeros(0, 2), counts_PGL=torch.ones(0, 2)).shape == (0, 2)


def test_statistics_by_hand():
    statistics = group_statistics(
        ragged([1, 1, None], [0, 0, 0], [0.5, 0.5, 0.5], [0, 1, 1], [1, None, None])
    )
    assert statistics.zero_variance_P.tolist() == [True, True, True, False, False]
    assert statistics.all_pass_P.tolist() == [True, False, False, False, False]
    assert statistics.all_fail_P.tolist() == [False, True, False, False, False]
    assert statistics.metrics() == {
        "group/zero_std_frac": 0.75,
        "group/all_pass_frac": 0.25,
        "group/all_fail_frac": 0.25,
        "group/too_few_samples": 1.0,
    }


def test_statistics_of_nothing_are_absent_not_zero():
    assert group_statistics(rewards_matrix([])).metrics() == {"group/too_few_samples": 0.0}


def test_left_out_groups_are_nan_and_others_untouched():
    advantages = torch.tensor([[0.0, 0.0], [-0.5, 0.5]])
    without_gradient = torch.tensor([True, False])
    kept = leave_out(advantages, without_gradient)
    assert kept[0].isnan().all()
    assert kept[1].tolist() == [-0.5, 0.5]
    assert advantages[0].tolist() == [0, 0]  # the input is not written to
    per_token = leave_out(advantages[..., None].expand(2, 2, 3), without_gradient)
    assert torch.equal(per_token[..., 1].nan_to_num(9.0), kept.nan_to_num(9.0))
