"""A change of structure leaves the stored numbers as they are; see tests/golden_numbers.py."""

import json

import pytest
from golden_numbers import FILE, SEEDS, policy, simulated, values

REL, ABS = 1e-5, 1e-6  # of another CPU, other kernels

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what died with a driver
STORED = json.loads(FILE.read_text())


def near(numbers):
    return pytest.approx(numbers, rel=REL, abs=ABS)


def test_updates_of_the_policy_are_those_that_were_stored(tiny_untied_model):
    assert policy(tiny_untied_model) == near(STORED["policy"])


def test_updates_of_the_critic_are_those_that_were_stored(tiny_reward):
    assert values(tiny_reward) == near(STORED["critic"])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_simulated_run_ends_at_the_weights_that_were_stored(seed):
    assert simulated(seed)["weights"] == near(STORED["simulated"][str(seed)])


def test_another_objective_or_estimator_would_be_noticed(tiny_untied_model, tiny_reward):
    assert policy(tiny_untied_model, clip_high=0.281) != near(STORED["policy"])
    assert values(tiny_reward, lam=0.949) != near(STORED["critic"])
    ends = list(STORED["simulated"].values())
    assert all(ours != near(theirs) for i, ours in enumerate(ends) for theirs in ends[:i])
