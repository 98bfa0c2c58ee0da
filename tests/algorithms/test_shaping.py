"""Reward shaping and the dynamic-sampling decision, by hand and by law."""

import math

import pytest
import torch

from rlpost.algorithms.advantages import group_statistics, rewards_matrix
from rlpost.algorithms.shaping import (
    DynamicSamplingConfig,
    ShapingConfig,
    keep_groups,
    overlong_penalty,
    shape_rewards,
)
from rlpost.bounds import check_config
from rlpost.errors import UserError


def shaped(rows, lengths, config, *, max_tokens=100):
    return shape_rewards(
        rewards_matrix(rows),
        lengths_PG=torch.tensor(lengths),
        max_tokens=max_tokens,
        config=config,
    )


def test_by_default_nothing_changes():
    rewards = rewards_matrix([[1, None, -3]])
    result = shape_rewards(
        rewards, lengths_PG=torch.tensor([[100, 0, 7]]), max_tokens=100, config=ShapingConfig()
    )
    assert torch.equal(result.nan_to_num(9.0), rewards.nan_to_num(9.0))


def test_overlong_penalty_by_hand():
    lengths = torch.tensor([[0, 80, 85, 90, 100, 120]])
    result = overlong_penalty(lengths, max_tokens=100, buffer=20, penalty=0.5)
    assert result.tolist()[0] == pytest.approx([0, 0, -0.125, -0.25, -0.5, -0.5])


def test_overlong_penalty_is_added_after_the_clip():
    config = ShapingConfig(clip_min=0.0, clip_max=1.0, overlong_buffer=20)
    result = shaped([[3, -2, None]], [[100, 90, 100]], config)[0]
    assert result[:2].tolist() == pytest.approx([0.0, -0.5])
    assert result[2].isnan()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ShapingConfig(clip_min=-1.0), [-1.0, 0.5, 4.0]),
        (ShapingConfig(clip_max=1.0), [-3.0, 0.5, 1.0]),
        (ShapingConfig(clip_min=-1.0, clip_max=1.0), [-1.0, 0.5, 1.0]),
    ],
)
def test_clipping_by_hand(config, expected):
    assert shaped([[-3, 0.5, 4]], [[1, 1, 1]], config).tolist()[0] == expected


def test_whitening_is_over_the_usable_rewards_of_the_batch():
    result = shaped([[1, 2], [6, None]], [[1, 1], [1, 1]], ShapingConfig(whiten=True))
    used = result[~result.isnan()]
    assert len(used) == 3
    assert used.mean().item() == pytest.approx(0, abs=1e-12)
    assert used.std(correction=0).item() == pytest.approx(1)
    assert shaped([[2, 2]], [[1, 1]], ShapingConfig(whiten=True)).tolist() == [[0, 0]]


def test_nothing_to_shape_is_safe_and_the_input_is_not_written_to():
    config = ShapingConfig(clip_min=0.0, overlong_buffer=5, whiten=True)
    assert shaped([[None, None]], [[0, 0]], config).isnan().all()
    rewards = rewards_matrix([[-1, 2]])
    shape_rewards(rewards, lengths_PG=torch.tensor([[99, 1]]), max_tokens=100, config=config)
    assert rewards.tolist() == [[-1, 2]]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ShapingConfig(clip_min=math.nan), r"algorithm\.shaping\.clip_min must be in \["),
        (ShapingConfig(clip_max=math.inf), r"algorithm\.shaping\.clip_max must be in \["),
        (ShapingConfig(clip_min=1.0, clip_max=1.0), r"clip_min must be below .*clip_max=1\.0"),
        (
            ShapingConfig(overlong_buffer=-1),
            r"algorithm\.shaping\.overlong_buffer must be in \[0, ",
        ),
        (
            ShapingConfig(overlong_buffer=8, overlong_penalty=0.0),
            r"algorithm\.shaping\.overlong_penalty must be in \(0, .*got 0\.0",
        ),
        (ShapingConfig(overlong_penalty=0.5), r"overlong_penalty=0\.5 has no effect"),
    ],
)
def test_settings_that_cannot_work_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        check_config(config, "algorithm.shaping")


def test_usual_settings_pass():
    check_config(ShapingConfig(), "algorithm.shaping")
    check_config(
        ShapingConfig(clip_min=-5.0, clip_max=5.0, overlong_buffer=16, whiten=True),
        "algorithm.shaping",
    )
    check_config(DynamicSamplingConfig(), "algorithm.dynamic_sampling")
    check_config(DynamicSamplingConfig(enabled=True), "algorithm.dynamic_sampling")


def test_groups_are_kept_by_raw_reward():
    raw = rewards_matrix([[1, 1], [0, 0], [0, 1], [1, None], [0.5, 0.5]])
    assert keep_groups(group_statistics(raw)).tolist() == [False, False, True, False, False]
    # Negative control: after shaping the solved group looks informative.
    lengths = torch.tensor([[100, 1]] * 5)
    after = shape_rewards(
        raw, lengths_PG=lengths, max_tokens=100, config=ShapingConfig(overlong_buffer=10)
    )
    assert keep_groups(group_statistics(after))[0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DynamicSamplingConfig(max_rounds=0), r"dynamic_sampling\.max_rounds must be in \[1, "),
        (DynamicSamplingConfig(enabled=True, max_rounds=1), "never draws a replacement"),
    ],
)
def test_unbounded_or_pointless_rounds_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        check_config(config, "algorithm.dynamic_sampling")
