"""The adaptive coefficient: its step by hand, and that it holds a target in a closed loop."""

import math

import pytest

from rlpost.algorithms.kl_controller import AdaptiveKLConfig, KLController
from rlpost.bounds import check_config
from rlpost.errors import UserError

ADAPTIVE = AdaptiveKLConfig(enabled=True, target=0.1, horizon=1000)


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        (0.1, 1.0),
        (0.11, 1 + 0.1 * 0.1),
        (5.0, 1 + 0.2 * 0.1),  # the error is bounded
        (0.0, 1 - 0.2 * 0.1),
        (-0.3, 1 - 0.2 * 0.1),  # an estimate may be negative
        (math.inf, 1 + 0.2 * 0.1),
        (math.nan, 1.0),
    ],
)
def test_one_update_by_hand(kl, factor):
    controller = KLController(0.5, ADAPTIVE)
    controller.update(kl, num_samples=100)
    assert controller.coefficient == pytest.approx(0.5 * factor)


def closed_loop(config, *, coefficient, steps=600):
    """A policy that drifts until the penalty balances it: KL relaxes towards 0.02 / c."""
    controller, kl = KLController(coefficient, config), 0.0
    for _ in range(steps):
        kl += 0.3 * (0.02 / controller.coefficient - kl)
        controller.update(kl, num_samples=100)
    return kl


@pytest.mark.parametrize("coefficient", [0.01, 0.2, 3.0])
def test_it_holds_the_target_from_any_start(coefficient):
    assert closed_loop(ADAPTIVE, coefficient=coefficient) == pytest.approx(0.1, rel=0.3)


def test_a_fixed_coefficient_does_not_hold_it():
    """Negative control for the loop above."""
    fixed = AdaptiveKLConfig(enabled=False, target=0.1, horizon=1000)
    assert closed_loop(fixed, coefficient=3.0) < 0.01


def test_the_coefficient_stays_positive_whatever_comes():
    controller = KLController(0.5, AdaptiveKLConfig(enabled=True, horizon=1))
    for _ in range(50):
        controller.update(0.0, num_samples=10**6)
    assert controller.coefficient > 0


def test_a_resumed_controller_goes_on_exactly():
    whole, first = KLController(0.5, ADAPTIVE), KLController(0.5, ADAPTIVE)
    for kl in (0.2, 0.05):
        whole.update(kl, num_samples=64)
    first.update(0.2, num_samples=64)
    second = KLController(0.9, ADAPTIVE)
    second.load_state_dict(first.state_dict())
    second.update(0.05, num_samples=64)
    assert second.coefficient == whole.coefficient


def test_a_fixed_coefficient_follows_the_configuration_on_resume():
    fixed = KLController(0.5, AdaptiveKLConfig())
    fixed.load_state_dict({"coefficient": 0.1})
    assert fixed.coefficient == 0.5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AdaptiveKLConfig(target=0.0), r"algorithm\.kl\.adaptive\.target must be in \(0, "),
        (AdaptiveKLConfig(target=math.inf), r"algorithm\.kl\.adaptive\.target"),
        (AdaptiveKLConfig(horizon=0), r"algorithm\.kl\.adaptive\.horizon must be in \[1, "),
    ],
)
def test_settings_out_of_range_say_so(config, message):
    with pytest.raises(UserError, match=message):
        check_config(config, "algorithm.kl.adaptive")


def test_usual_settings_pass():
    check_config(AdaptiveKLConfig(enabled=True), "algorithm.kl.adaptive")
    check_config(AdaptiveKLConfig(), "algorithm.kl.adaptive")
