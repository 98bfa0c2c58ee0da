import pytest

from rlpost.errors import UserError
from rlpost.verifiers.configured import configured, counted_weights
from rlpost.verifiers.exact import ExactConfig
from rlpost.verifiers.function import FunctionConfig


def _weights(*weights):
    paths = [f"r.py:{'fgh'[i]}" for i in range(len(weights))]
    return counted_weights(configured(FunctionConfig(path=paths, weights=list(weights))))


def test_one_verifier_has_the_name_of_its_kind():
    assert configured(ExactConfig(weight=2.0)) == {"exact": ExactConfig(weight=2.0)}


def test_functions_have_their_own_names():
    assert list(configured(FunctionConfig(path=["r.py:f", "r.py:g"]))) == ["f", "g"]


def test_messages_begin_with_the_field():
    with pytest.raises(UserError, match=r"^judge\.path must be FILE\.py:function, got 'r\.py'"):
        configured(FunctionConfig(path=["r.py:f", "r.py"]), field="judge")


def test_several_rewards_are_measured_as_they_are_trained_on():
    assert _weights(1.0, 0.2) == {"f": 1.0, "g": 0.2}
    assert _weights(1.0, 0.0) == {"f": 1.0, "g": 0.0}


def test_a_lone_reward_is_measured_as_it_is():
    assert _weights(0.2) == {"f": 1.0}
    assert _weights(0.0) == {"f": 1.0}


def test_rewards_that_only_measure_count_alike():
    assert _weights(0.0, 0.0) == {"f": 1.0, "g": 1.0}
