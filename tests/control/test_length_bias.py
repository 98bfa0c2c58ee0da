"""Runs whose margins follow length, and runs of which that may not be said."""

import pytest

from rlpost.control.learning_signs import signs_of
from rlpost.control.sign import SignKind

HELDOUT = {"step": 0, "preference/heldout_loss": 0.69}


def rows(correlations, *, stage="preference", chosen=50.0, rejected=50.0):
    return [HELDOUT] + [
        {
            "step": number,
            f"{stage}/loss": 0.6,
            f"{stage}/length_correlation": each,
            f"{stage}/chosen_tokens": chosen,
            f"{stage}/rejected_tokens": rejected,
        }
        for number, each in enumerate(correlations, start=1)
    ]


def kinds(*args, **options):
    return [sign.kind for sign in signs_of(rows(*args, **options))]


def test_margins_that_follow_length_are_told():
    (sign,) = signs_of(rows([0.6, 0.8, 0.7, 0.7], chosen=60.0, rejected=48.0))
    assert sign.kind is SignKind.length
    assert sign.finding == (
        "longer responses are preferred: over steps 1 to 4 the correlation of rewards with length "
        "is 0.70; chosen ones have 60 tokens on average, rejected 48"
    )
    assert "loss=simpo" in sign.advice


def test_a_preference_for_short_responses_is_told_too():
    (sign,) = signs_of(rows([-0.7] * 4))
    assert sign.finding.startswith("shorter responses are preferred")


def test_a_reward_model_is_told_what_rl_makes_of_it():
    (sign,) = signs_of(rows([0.7] * 5, stage="reward"))
    assert sign.advice.startswith("RL with this reward model makes responses longer")
    assert "simpo" not in sign.advice


@pytest.mark.parametrize(
    "correlations",
    [
        [0.9] * 3,  # too few steps
        [0.9, -0.9, 0.5, -0.3, 0.2],  # chance
        [0.4] * 8,
        [None] * 8,  # lengths are equal
        [0.9] * 8 + [0.0] * 8,  # it went away
    ],
)
def test_chance_few_steps_and_what_has_passed_are_not_told(correlations):
    assert kinds(correlations) == []


def test_sides_that_length_alone_tells_apart_are_told():
    (sign,) = signs_of(rows([0.1] * 4, chosen=90.0, rejected=60.0))
    assert sign.kind is SignKind.length
    assert sign.finding.startswith(
        "length alone tells good responses from bad ones in steps 1 to 4"
    )
    assert kinds([0.1] * 4, chosen=60.0, rejected=90.0) == [SignKind.length]
    assert kinds([0.1] * 4, chosen=89.0, rejected=60.0) == []


def test_judged_responses_without_one_side_in_a_step_are_no_error():
    some = rows([0.9] * 4)
    for row in some[1:]:
        row.pop("preference/rejected_tokens")
    (sign,) = signs_of(some)
    assert "tokens on average" not in sign.finding
