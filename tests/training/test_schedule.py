"""The learning rate, by hand."""

import pytest

from rlpost.training.schedule import lr_at
from rlpost.training.settings import LRSchedule, TrainerConfig


def rates(**options) -> list[float]:
    cfg = TrainerConfig(lr=1.0, **options)
    return [lr_at(step, cfg) for step in range(1, cfg.steps + 1)]


def test_constant():
    assert rates(steps=3) == [1, 1, 1]


def test_warmup_reaches_the_rate_at_its_last_step():
    assert rates(steps=5, warmup_steps=4) == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_linear_falls_to_zero_just_after_the_last_step():
    linear = {"lr_schedule": LRSchedule.linear}
    assert rates(steps=4, **linear) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert rates(steps=5, warmup_steps=2, **linear) == pytest.approx([0.5, 1, 0.75, 0.5, 0.25])


def test_cosine_is_half_way_down_in_the_middle():
    found = rates(steps=4, lr_schedule=LRSchedule.cosine)
    assert found == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])


@pytest.mark.parametrize("shape", [LRSchedule.cosine, LRSchedule.linear])
def test_beyond_the_last_step_the_rate_is_zero(shape):
    assert lr_at(9, TrainerConfig(steps=3, lr_schedule=shape)) == pytest.approx(0)
