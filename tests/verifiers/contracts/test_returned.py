from decimal import Decimal

import numpy as np
import pytest
import torch

from rlpost.verifiers.base import Sample
from rlpost.verifiers.contracts.returned import per_response, rewards_of, scored
from rlpost.verifiers.workers.safe_call import reply_of


@pytest.mark.parametrize(
    "returned",
    [
        [0.5, 1.0],
        (0.5, 1.0),
        iter([0.5, 1.0]),
        (r for r in (0.5, 1.0)),
        np.array([0.5, 1.0]),
        np.array([[0.5], [1.0]]),
        torch.tensor([0.5, 1.0]),
        torch.tensor([[0.5], [1.0]]),
        torch.tensor([0.5, 1.0], dtype=torch.bfloat16, requires_grad=True),
        [[0.5], (1.0,)],
    ],
)
def test_forms_of_a_list(returned):
    assert rewards_of(returned, num=2) == [0.5, 1.0]


@pytest.mark.parametrize("returned", [{0.5: 1, 1.0: 2}, {0.5, 1.0}, "ab", b"ab", 2, None, object()])
def test_anything_else_is_no_list(returned):
    for error in rewards_of(returned, num=2):
        assert isinstance(error, TypeError) and "must return a list of rewards, got" in str(error)


@pytest.mark.parametrize("returned", [[], [1.0], [1.0] * 3, np.ones((1, 2)), torch.ones(3)])
def test_another_length_is_never_cut_or_filled(returned):
    errors = rewards_of(returned, num=2)
    assert len(errors) == 2
    for error in errors:
        assert isinstance(error, ValueError)
        assert f"one reward per completion: got {len(returned)} for 2" in str(error)
        assert "verifier.call=sample" in str(error)


def test_logged_values_belong_to_their_response_or_to_all():
    assert per_response(torch.tensor([1.0, 2.0]), num=2) == [1.0, 2.0]
    assert per_response(3.0, num=2) == [3.0, 3.0]
    assert per_response([1, 2, 3], num=2) == [[1, 2, 3]] * 2


def test_an_error_takes_no_information():
    error = ValueError("no")
    assert scored(error, {"why": "x"}) is error
    assert scored(0.5, {}) == 0.5


def test_information_never_replaces_the_reward():
    assert scored(1.0, {"reward": 9.0, "why": "x"}) == {
        "reward": 1.0, "info.reward": 9.0, "why": "x",
    }  # fmt: skip


def test_information_is_plain():
    info = {"a": np.float32(0.5), "b": torch.tensor(2), 3: np.arange(2), "d": np.bool_(True)}
    assert _reply(scored(1.0, info))["info"] == {"a": 0.5, "b": 2, "3": "[0, 1]", "d": True}


@pytest.mark.parametrize("score", [Decimal("0.5"), np.float16(0.5), torch.tensor([0.5])])
def test_numbers_of_other_types_are_rewards(score):
    assert _reply(score)["reward"] == 0.5


@pytest.mark.parametrize("score", [Decimal("nan"), Decimal("1e999"), "0.5", torch.ones(2)])
def test_what_is_no_number_is_an_error(score):
    assert _reply(score)["reward"] is None


def _reply(score):
    return reply_of(lambda sample: score, Sample(prompt="", text=""))
