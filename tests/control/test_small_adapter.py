"""Measurements of adapters that are too small, and those of which that may not be said."""

import pytest

from rlpost.control.learning_signs import signs_of
from rlpost.control.sign import SignKind

SMALL = {
    "adapter/reach": 0.1,
    "adapter/gradient_agreement": 0.6,
    "adapter/gradient_outside": 0.9,
    "adapter/gradient_outside_agreed": 0.98,
    "adapter/gradient_unadapted": 0.0,
    "adapter/update_rank_used": 0.7,
}


def said(*changes):
    rows = [{"step": 0, "sft/heldout_loss": 1.0, "sft/loss": 1.0}]
    for change in changes:
        rows.append({"step": 10 * len(rows), "sft/loss": 1.0, **SMALL, **change})
        rows.append({"step": rows[-1]["step"] + 1, "sft/loss": 1.0})  # nothing is measured
    return list(signs_of(rows))


def test_a_used_rank_that_is_too_low_is_to_be_raised():
    (sign,) = said({}, {"adapter/gradient_outside_agreed": 0.95})
    assert sign.kind is SignKind.capacity
    assert sign.finding == (
        "the adapter has gone as far as it can: 95% of what the rows still ask for in common lies "
        "elsewhere, and its updates use 70% of its rank (steps 10 to 30)"
    )
    assert sign.advice.startswith("Raise the rank: double adapter.rank")


def test_a_large_adapter_is_to_be_replaced_by_all_weights():
    (sign,) = said({"adapter/reach": 0.6}, {"adapter/reach": 0.6})
    assert "adapter=none" in sign.advice and "60%" in sign.advice


def test_layers_without_an_adapter_come_first():
    (sign,) = said(*[{"adapter/gradient_unadapted": 0.7}] * 2)
    assert "Add modules: set adapter.target_modules=all-linear" in sign.advice


@pytest.mark.parametrize(
    "change",
    [
        {"adapter/gradient_agreement": 0.1},  # noise
        {"adapter/gradient_agreement": None},  # one sequence
        {"adapter/gradient_outside_agreed": 0.89},  # it follows more than chance would have it
        {"adapter/update_rank_used": 0.3},  # it has directions to spare
        {"adapter/update_rank_used": None},  # it is fresh
    ],
)
def test_nothing_is_said_without_a_reason(change):
    assert said({}, change) == [] == said(change, {}) == said({})
