import pytest

from rlpost.bounds import check_config
from rlpost.errors import UserError
from rlpost.training.critic_settings import CriticConfig
from rlpost.training.settings import TrainerConfig


def test_only_the_learning_rate_is_the_critics_own():
    policy = TrainerConfig(steps=10, lr=1e-6, warmup_steps=3, zero_stage=3, num_ranks=2)
    cfg = CriticConfig(lr=2e-5, warmup_steps=1).trainer(policy)
    assert (cfg.lr, cfg.warmup_steps) == (2e-5, 1)
    assert (cfg.steps, cfg.zero_stage, cfg.num_ranks) == (10, 3, 2)
    assert policy.lr == 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, r"critic\.lr must be in \(0, .*got 0\.0"),
        ({"warmup_only_steps": -1}, r"critic\.warmup_only_steps must be in \[0, "),
        ({"init_from": " "}, r"critic\.init_from must name a model"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    check_config(CriticConfig(), "critic")
    with pytest.raises(UserError, match=message):
        check_config(CriticConfig(**options), "critic")


@pytest.mark.parametrize("name", ["warmup_steps", "warmup_only_steps"])
def test_a_warm_up_must_end(name):
    policy = TrainerConfig(steps=5)
    CriticConfig(**{name: 4}).trainer(policy)
    with pytest.raises(UserError, match=rf"critic\.{name} must be below trainer\.steps=5, got 5"):
        CriticConfig(**{name: 5}).trainer(policy)
