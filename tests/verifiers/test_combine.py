import pytest

from rlpost.types import Verdict
from rlpost.verifiers.base import ABSTAINED, TIMEOUT
from rlpost.verifiers.combine import combine

WEIGHTS = {"math": 1.0, "format": 0.5, "style": -2.0}


def _verdict(name, reward, error=None):
    return Verdict(verifier=name, reward=reward, error=error)


def test_weighted_sum():
    verdicts = [_verdict("math", 1.0), _verdict("format", 0.4), _verdict("style", 0.1)]
    assert combine(verdicts, WEIGHTS) == pytest.approx(1.0 + 0.2 - 0.2)


@pytest.mark.parametrize("error", [TIMEOUT, "ValueError: no", "worker died (exit code 1)"])
def test_any_failure_leaves_no_reward(error):
    verdicts = [_verdict("math", 1.0), _verdict("format", None, error)]
    assert combine(verdicts, WEIGHTS) is None


def test_abstentions_are_left_out():
    assert combine([_verdict("math", 0.0), _verdict("format", None, ABSTAINED)], WEIGHTS) == 0.0


def test_nobody_judged():
    assert combine([_verdict("math", None, ABSTAINED)], WEIGHTS) is None


def test_a_verifier_without_weight_is_our_bug():
    with pytest.raises(KeyError):
        combine([_verdict("other", 1.0)], WEIGHTS)
