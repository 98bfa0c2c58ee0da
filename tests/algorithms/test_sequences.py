"""Sums per response by hand."""

import torch

from rlpost.algorithms.sequences import (
    of_items,
    sequence_any,
    sequence_mean,
    sequence_sum,
)

SEQUENCE = torch.tensor([0, 0, 2, 0, 1, 2])
COUNTED = torch.tensor([False, True, True, True, False, True])
WHERE = {"item_R": SEQUENCE, "counted_R": COUNTED}
VALUES = torch.tensor([torch.nan, 2.0, 3.0, 4.0, torch.inf, 5.0], dtype=torch.float64)


def test_by_hand():
    assert sequence_sum(VALUES, **WHERE).tolist() == [6, 6, 8, 6, 0, 8]
    assert sequence_mean(VALUES, **WHERE).tolist() == [3, 3, 4, 3, 0, 4]
    assert sequence_any(VALUES > 4, **WHERE).tolist() == [False, False, True, False, False, True]
    any_R = sequence_any(VALUES > 4, **WHERE)
    assert of_items(any_R, item_R=SEQUENCE, num_items=3).tolist() == [False, False, True]


def test_gradient_of_a_mean_goes_to_its_counted_tokens_only():
    values = VALUES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(sequence_mean(values, **WHERE)[0], values)
    assert gradient.tolist() == [0, 0.5, 0, 0.5, 0, 0]


def test_nothing_is_safe():
    nothing = {"item_R": SEQUENCE[:0], "counted_R": COUNTED[:0]}
    assert sequence_mean(VALUES[:0], **nothing).shape == (0,)
    assert of_items(VALUES[:0], item_R=SEQUENCE[:0], num_items=0).shape == (0,)
