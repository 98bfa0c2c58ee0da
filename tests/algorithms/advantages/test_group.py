"""One advantage per response: numbers by hand and what is particular to each estimator."""

import math

import pytest
import torch

from rlpost.algorithms.advantages import (
    AdvantageInputs,
    DrGRPOConfig,
    GDPOConfig,
    GRPOConfig,
    OPOConfig,
    PassAtKConfig,
    ReMaxConfig,
    RLOOConfig,
    estimators,
    rewards_matrix,
)
from rlpost.bounds import check_config
from rlpost.errors import UserError


def inputs_of(*rows, lengths=None, **more):
    rewards_PG = rewards_matrix(rows)
    lengths_PG = torch.ones(rewards_PG.shape, dtype=torch.int64)
    if lengths is not None:
        lengths_PG = torch.tensor(lengths)
    return AdvantageInputs(rewards_PG=rewards_PG, lengths_PG=lengths_PG, **more)


def advantages(inputs, config):
    result = estimators.get(config.kind).target(inputs, config)
    assert result.returns_PGL is None
    assert result.advantages_PGL.shape == (*inputs.rewards_PG.shape, 1)
    assert result.advantages_PGL.dtype is torch.float64
    return result.advantages_PGL[..., 0]


def test_grpo_by_hand():
    # mean 0.5, unbiased std of (1, 0, 0, 1) = sqrt(4 * 0.25 / 3) = 0.57735
    result = advantages(inputs_of([1, 0, 0, 1]), GRPOConfig())
    expected = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    assert result.tolist()[0] == pytest.approx([expected, -expected, -expected, expected])


def test_grpo_without_deviation_is_dr_grpo():
    inputs = inputs_of([1, 0, 0.5], [3, 3, 0])
    plain = advantages(inputs, GRPOConfig(normalize_std=False))
    assert torch.equal(plain, advantages(inputs, DrGRPOConfig()))
    assert not torch.allclose(plain, advantages(inputs, GRPOConfig()))


def test_rloo_by_hand():
    # others' means: (0 + 3)/2, (1 + 3)/2, (1 + 0)/2
    result = advantages(inputs_of([1, 0, 3]), RLOOConfig())
    assert result.tolist()[0] == pytest.approx([-0.5, -2.0, 2.5])


def test_missing_reward_leaves_mean_and_deviation_alone():
    with_gap = advantages(inputs_of([1, None, 0, 1]), GRPOConfig())[0]
    without = advantages(inputs_of([1, 0, 1]), GRPOConfig())[0]
    assert with_gap[1].isnan()
    assert with_gap[[0, 2, 3]].tolist() == pytest.approx(without.tolist())
    # Negative control: a failure counted as reward 0 changes the others' advantages.
    as_zero = advantages(inputs_of([1, 0, 0, 1]), GRPOConfig())[0]
    assert abs(as_zero[0] - without[0]) > 0.1


def test_opo_by_hand():
    # baseline (2 * 1 + 6 * 0) / 8 = 0.25; the missing one's 99 tokens weigh nothing
    result = advantages(inputs_of([1, 0, None], lengths=[[2, 6, 99]]), OPOConfig())[0]
    assert result[:2].tolist() == pytest.approx([0.75, -0.25])
    assert result[2].isnan()


def test_opo_with_equal_lengths_is_dr_grpo():
    inputs = inputs_of([1, 0, 0.3], [2, None, 5], lengths=[[4] * 3] * 2)
    torch.testing.assert_close(
        advantages(inputs, OPOConfig()), advantages(inputs, DrGRPOConfig()), equal_nan=True
    )


def test_remax_by_hand():
    inputs = inputs_of([1.0], [0.2], [1.0], greedy_rewards_P=torch.tensor([0.0, 1.0, torch.nan]))
    result = advantages(inputs, ReMaxConfig())[:, 0]
    assert result[:2].tolist() == pytest.approx([1.0, -0.8])
    assert result[2].isnan()


def components(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_gdpo_by_hand():
    # Both components have deviation sqrt(1/2) and mean 1/2 in a group of two.
    inputs = inputs_of(
        [1, 1],
        components_PGK=components([[1, 0], [0, 1]]),
        component_weights_K=torch.tensor([3.0, 1.0]),
    )
    unit = 0.5 / (math.sqrt(0.5) + 1e-4)
    summed = advantages(inputs, GDPOConfig(batch_normalize=False))[0]
    assert summed.tolist() == pytest.approx([2 * unit, -2 * unit])
    assert advantages(inputs, GDPOConfig())[0].tolist() == pytest.approx([1, -1])
    # The sum of the rewards is equal, so GRPO sees nothing: what GDPO is for.
    assert advantages(inputs, GRPOConfig())[0].tolist() == [0, 0]


def test_gdpo_does_not_let_the_larger_scale_decide():
    matrix = components([[100, 0], [0, 1], [50, 1]])
    weights = torch.ones(2)
    plain = inputs_of([1, 1, 1], components_PGK=matrix, component_weights_K=weights)
    scaled = inputs_of(
        [1, 1, 1],
        components_PGK=matrix * torch.tensor([1.0, 1000.0]),
        component_weights_K=weights,
    )
    torch.testing.assert_close(
        advantages(plain, GDPOConfig()), advantages(scaled, GDPOConfig()), atol=1e-3, rtol=0
    )


def test_gdpo_without_one_component_takes_part_in_nothing():
    matrix = components([[1, 0], [0, 1], [1, torch.nan]])
    weights = torch.ones(2)
    with_gap = inputs_of([1, 1, 1], components_PGK=matrix, component_weights_K=weights)
    without = inputs_of([1, 1], components_PGK=matrix[:, :2], component_weights_K=weights)
    result = advantages(with_gap, GDPOConfig())
    assert result[0, 2].isnan()
    assert torch.equal(result[:, :2], advantages(without, GDPOConfig()))


def test_pass_at_k_by_hand():
    # Four samples, one right, k = 2: 3 of 6 pairs pass, deviation 1/2. Every pair with the
    # right one passes; of the 3 pairs with a given wrong one, 1 passes.
    result = advantages(inputs_of([0, 1, 0, 0]), PassAtKConfig(k=2))
    expected = [(1 / 3 - 1 / 2) / 0.5, (1 - 1 / 2) / 0.5]
    assert result.tolist()[0] == pytest.approx([expected[0], expected[1], expected[0], expected[0]])


@pytest.mark.parametrize("num_right", range(1, 7))
def test_pass_at_k_is_the_papers_closed_form_on_binary_rewards(num_right):
    n, k = 9, 3
    wrong = n - num_right
    rate = 1 - math.comb(wrong, k) / math.comb(n, k)
    deviation = math.sqrt(rate * (1 - rate))
    right_advantage = (1 - rate) / deviation
    wrong_advantage = (1 - rate - math.comb(wrong - 1, k - 1) / math.comb(n - 1, k - 1)) / deviation
    result = advantages(inputs_of([1] * num_right + [0] * wrong), PassAtKConfig(k=k))
    assert result.tolist()[0] == pytest.approx(
        [right_advantage] * num_right + [wrong_advantage] * wrong
    )


def test_pass_at_k_of_a_group_that_always_passes_is_exactly_zero():
    rows = [[1, 1, 1, 0, 0], [0.1] * 5, [1, 0, 0, None, None]]  # any 3 hold a right one
    assert advantages(inputs_of(*rows), PassAtKConfig(k=3))[:2].tolist() == [[0.0] * 5] * 2
    assert advantages(inputs_of(*rows), PassAtKConfig(k=3))[2, :3].tolist() == [0.0] * 3
    assert advantages(inputs_of(*rows), PassAtKConfig(k=4))[2].isnan().all()  # too few for 4


def test_pass_at_k_of_large_groups_is_finite():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand(1, 256, generator=generator).tolist()
    result = advantages(inputs_of(*rewards), PassAtKConfig(k=64))
    assert result.isfinite().all()
    assert result.argmax() == torch.tensor(rewards).argmax()


def test_token_rewards_are_refused():
    inputs = inputs_of([1, 0], token_rewards_PGL=torch.zeros(1, 2, 1))
    for entry in estimators:
        if not entry.config.token_level:
            config = entry.config()
            with pytest.raises(AssertionError):
                entry.target(inputs, config)


@pytest.mark.parametrize("config_class", [GRPOConfig, GDPOConfig])
@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf])
def test_epsilon_must_be_positive(config_class, epsilon):
    with pytest.raises(UserError, match=r"algorithm\.advantage\.epsilon must be in \(0, "):
        check_config(config_class(epsilon=epsilon), "algorithm.advantage")


def test_k_must_be_positive():
    with pytest.raises(UserError, match=r"algorithm\.advantage\.k must be in \[1, .*got 0"):
        check_config(PassAtKConfig(k=0), "algorithm.advantage")
