"""Runs whose chosen responses become less likely, and runs of which that may not be said."""

import pytest

from rlpost.control.chosen_fall import WINDOW
from rlpost.control.learning_signs import signs_of
from rlpost.control.sign import SignKind


def rows(*phases, nll=None):
    """One phase of steps for each (reward of the chosen one, margin)."""
    found = [{"step": 0, "preference/heldout_loss": 0.69}]
    for chosen, margin in phases:
        for _ in range(WINDOW):
            row = {"step": len(found), "preference/loss": 0.6, "preference/grad_norm": 1.0}
            row |= {"rewards/chosen": chosen, "rewards/margins": margin}
            found.append(row | ({} if nll is None else {"preference/nll": nll}))
    return found


def test_a_fall_of_chosen_responses_is_explained():
    (sign,) = signs_of(rows((0.0, 0.0), (-1.2, 0.8)))
    assert sign.kind is SignKind.chosen_fall
    assert sign.finding == (
        "chosen responses become less likely: their reward fell from 0.00 (steps 1 to 4) to -1.20 "
        "(steps 5 to 8), while the margin grew by 0.80"
    )
    assert "loss=rpo" in sign.advice and "loss.beta" in sign.advice


def test_a_loss_that_trains_the_likelihood_is_not_told_to_train_it():
    (sign,) = signs_of(rows((0.0, 0.0), (-1.2, 0.8), nll=1.5))
    assert "loss.alpha" in sign.advice and "loss=rpo" not in sign.advice


def test_without_a_reference_the_first_steps_are_the_level():
    assert signs_of(rows((-8.0, 0.5), (-8.1, 1.5))) == []
    assert [sign.kind for sign in signs_of(rows((-8.0, 0.5), (-9.0, 1.5)))] == [
        SignKind.chosen_fall
    ]


@pytest.mark.parametrize(
    "phases",
    [
        [(0.0, 0.0)],  # too few steps
        [(0.0, 0.0), (0.5, 1.0)],
        [(0.0, 0.0), (-0.2, 0.1)],  # little
        [(0.0, 0.0), (-0.5, 3.0)],  # most of the margin is the rejected one's fall
        [(0.0, 0.0), (-2.0, 1.0), (0.1, 2.0)],  # it went away
        [(None, None), (None, None)],
    ],
)
def test_what_is_usual_or_has_passed_is_not_told(phases):
    assert signs_of(rows(*phases)) == []
