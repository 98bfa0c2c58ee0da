"""Advantages per token: numbers by hand and laws between the estimators."""

import math

import pytest
import torch

from rlpost.algorithms.advantages import (
    AdvantageInputs,
    GAEConfig,
    ReinforcePPBaselineConfig,
    ReinforcePPConfig,
    estimators,
    rewards_matrix,
)
from rlpost.bounds import check_config
from rlpost.errors import UserError

PLAIN_GAE = GAEConfig(whiten=False)


def inputs_of(rows, lengths, **more):
    more = {name: torch.tensor(value, dtype=torch.float64) for name, value in more.items()}
    return AdvantageInputs(
        rewards_PG=rewards_matrix(rows), lengths_PG=torch.tensor(lengths), **more
    )


def random_inputs(seed=0, *, values=True):
    generator = torch.Generator().manual_seed(seed)
    shape = (4, 3, 6)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    lengths_PG = torch.randint(0, 7, shape[:2], generator=generator)
    rewards_PG = normal(4, 3)
    rewards_PG[0, 1] = rewards_PG[3] = torch.nan
    return AdvantageInputs(
        rewards_PG=rewards_PG,
        lengths_PG=lengths_PG,
        token_rewards_PGL=normal(*shape),
        values_PGL=normal(*shape) if values else torch.zeros(shape, dtype=torch.float64),
    )


def run(inputs, config):
    return estimators.get(config.kind).target(inputs, config)


def test_gae_by_hand():
    # Two tokens, values 0.5 and 0.2, reward 1, gamma 1, lambda 0.5:
    # delta = (0.2 - 0.5, 1 - 0.2); A = (-0.3 + 0.5 * 0.8, 0.8); R = A + V
    inputs = inputs_of([[1.0]], [[2]], values_PGL=[[[0.5, 0.2, 77.0]]])
    result = run(inputs, GAEConfig(lam=0.5, whiten=False))
    assert result.advantages_PGL[0, 0, :2].tolist() == pytest.approx([0.1, 0.8])
    assert result.returns_PGL[0, 0, :2].tolist() == pytest.approx([0.6, 1.0])
    assert result.advantages_PGL[0, 0, 2].isnan() and result.returns_PGL[0, 0, 2].isnan()


def test_gae_with_token_rewards_by_hand():
    inputs = inputs_of(
        [[1.0]], [[2]], values_PGL=[[[0.5, 0.2]]], token_rewards_PGL=[[[-0.1, -0.2]]]
    )
    result = run(inputs, PLAIN_GAE)
    assert result.returns_PGL[0, 0].tolist() == pytest.approx([0.7, 0.8])


def test_gae_of_lambda_one_is_future_reward_minus_value():
    inputs = random_inputs()
    result = run(inputs, PLAIN_GAE)
    for p in range(4):
        for g in range(3):
            length = int(inputs.lengths_PG[p, g])
            reward = inputs.rewards_PG[p, g]
            for t in range(length):
                future = inputs.token_rewards_PGL[p, g, t:length].sum() + reward
                expected = future - inputs.values_PGL[p, g, t]
                torch.testing.assert_close(result.advantages_PGL[p, g, t], expected, equal_nan=True)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_reinforce_pp_is_gae_with_values_of_zero(gamma):
    inputs = random_inputs(values=False)
    torch.testing.assert_close(
        run(inputs, ReinforcePPConfig(gamma=gamma)).advantages_PGL,
        run(inputs, GAEConfig(gamma=gamma)).advantages_PGL,
        equal_nan=True,
    )
    # Negative control: with a critic they differ.
    inputs = random_inputs(values=True)
    difference = (
        run(inputs, ReinforcePPConfig(gamma=gamma)).advantages_PGL
        - run(inputs, GAEConfig(gamma=gamma)).advantages_PGL
    )
    assert difference.nan_to_num(0.0).abs().max() > 0.1


@pytest.mark.parametrize(
    "config", [GAEConfig(lam=0.95), ReinforcePPConfig(gamma=0.99), ReinforcePPBaselineConfig()]
)
def test_whitened_tokens_have_mean_0_and_deviation_1(config):
    advantages = run(random_inputs(), config).advantages_PGL
    trained = advantages[~advantages.isnan()]
    assert trained.mean().item() == pytest.approx(0, abs=1e-9)
    assert trained.std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_whitening_leaves_returns_alone():
    inputs = random_inputs()
    whitened, plain = run(inputs, GAEConfig()), run(inputs, PLAIN_GAE)
    torch.testing.assert_close(whitened.returns_PGL, plain.returns_PGL, equal_nan=True)
    assert not torch.allclose(
        whitened.advantages_PGL.nan_to_num(), plain.advantages_PGL.nan_to_num()
    )


def test_reinforce_pp_by_hand():
    # Returns with gamma 1/2: (0.5, 1) and (0,): mean 0.5, variance 1/6
    result = run(inputs_of([[1.0, 0.0]], [[2, 1]]), ReinforcePPConfig(gamma=0.5)).advantages_PGL[0]
    root = math.sqrt(1 / 6)
    assert result[0].tolist() == pytest.approx([0, 0.5 / root], abs=1e-7)
    assert result[1, 0].item() == pytest.approx(-0.5 / root)
    assert result[1, 1].isnan()


def test_reinforce_pp_baseline_by_hand():
    # Centred: 0.5 on 3 tokens and -0.5 on 1: token mean 0.25, variance (3/16 + 9/16) / 4
    inputs = inputs_of([[1.0, 0.0], [1.0, None]], [[3, 1], [5, 5]])
    result = run(inputs, ReinforcePPBaselineConfig()).advantages_PGL
    assert result.shape == (2, 2, 1)
    root = math.sqrt(3 / 16)
    assert result[0, :, 0].tolist() == pytest.approx([0.25 / root, -0.75 / root], abs=1e-7)
    assert result[1].isnan().all()


def test_reinforce_pp_baseline_without_penalty_does_not_depend_on_the_layout():
    rows, lengths = [[1.0, 0.0, 0.3], [2.0, None, 1.0]], [[3, 1, 0], [2, 2, 4]]
    plain = run(inputs_of(rows, lengths), ReinforcePPBaselineConfig()).advantages_PGL
    inputs = inputs_of(rows, lengths, token_rewards_PGL=[[[0.0] * 4] * 3] * 2)
    by_token = run(inputs, ReinforcePPBaselineConfig()).advantages_PGL
    expanded = plain.expand(2, 3, 4).masked_fill(~inputs.tokens_PGL, torch.nan)
    torch.testing.assert_close(expanded, by_token, equal_nan=True)


@pytest.mark.parametrize("config", [ReinforcePPConfig(), ReinforcePPBaselineConfig()])
def test_equal_rewards_everywhere_give_exactly_zero(config):
    result = run(inputs_of([[0.1] * 3] * 2, [[2, 3, 1]] * 2), config).advantages_PGL
    assert set(result[~result.isnan()].tolist()) == {0.0}


def test_a_response_without_tokens_is_not_trained_on():
    inputs = inputs_of([[1.0, 0.0]], [[0, 2]], values_PGL=[[[0.0, 0.0]] * 2])
    for config in (PLAIN_GAE, ReinforcePPConfig()):
        advantages = run(inputs, config).advantages_PGL
        assert advantages[0, 0].isnan().all()
        assert advantages[0, 1].isfinite().all()


def test_a_critics_values_are_needed():
    with pytest.raises(AssertionError, match="critic"):
        run(inputs_of([[1.0]], [[1]]), GAEConfig())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GAEConfig(gamma=1.1), r"algorithm\.advantage\.gamma must be in \[0, 1\], got 1\.1"),
        (GAEConfig(lam=-0.1), r"algorithm\.advantage\.lam must be in \[0, 1\]"),
        (ReinforcePPConfig(gamma=math.nan), r"algorithm\.advantage\.gamma must be in \[0, 1\]"),
    ],
)
def test_discounts_out_of_range_say_so(config, message):
    with pytest.raises(UserError, match=message):
        check_config(config, "algorithm.advantage")
