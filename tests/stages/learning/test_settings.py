"""How long a run is, by hand."""

import pytest

from rlpost.bounds import check_config
from rlpost.errors import UserError
from rlpost.stages.learning.settings import SupervisedTrainerConfig
from rlpost.training.schedule import lr_at


@pytest.mark.parametrize(
    ("options", "steps", "warmup"),
    [
        ({}, 200, 6),  # as many as the epochs come to; 3 percent of them warm up
        ({"epochs": 2.0}, 200, 6),
        ({"steps": 40}, 40, 2),  # rounded up
        ({"steps": 1}, 1, 0),
        ({"steps": 40, "warmup_steps": 0}, 40, 0),
        ({"warmup_fraction": 0.5}, 200, 100),
    ],
)
def test_steps_and_warm_up(options, steps, warmup):
    cfg = SupervisedTrainerConfig(**options)
    check_config(cfg, "trainer")
    found = cfg.of_steps(200)
    assert (found.steps, found.warmup_steps, found.epochs) == (steps, warmup, None)


def test_the_rate_rises_and_falls_as_a_cosine():
    cfg = SupervisedTrainerConfig(lr=1.0, warmup_fraction=0.2).of_steps(10)
    rates = [lr_at(step, cfg) for step in range(1, 11)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[1:] == sorted(rates[1:], reverse=True) and 0 < rates[-1] < 0.1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 3, "epochs": 1.0}, "both say how long"),
        ({"steps": 3, "warmup_steps": 3}, "trainer.warmup_steps must be below"),
        ({"share_prompts": False}, "trainer.share_prompts=false has no effect"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        check_config(SupervisedTrainerConfig(**options), "trainer")


def test_a_warm_up_that_epochs_do_not_reach_is_refused():
    with pytest.raises(UserError, match=r"trainer\.warmup_steps must be below"):
        SupervisedTrainerConfig(warmup_steps=200).of_steps(200)
