"""Sums per response by hand."""

import torch

from rlpost.algorithms.sequences import (
    sequence_any,
    sequence_heads,
    sequence_mean,
    sequence_sum,
)

SEQUENCE = torch.tensor([7, 7, -1, 7, 3, -1])
COUNTED = torch.tensor([False, True, True, True, False, True])
WHERE = {"sequence_R": SEQUENCE, "counted_R": COUNTED}
VALUES = torch.tensor([torch.nan, 2.0, 3.0, 4.0, torch.inf, 5.0], dtype=torch.float64)


def test_by_hand():
    assert sequence_sum(VALUES, **WHERE).tolist() == [6, 6, 8, 6, 0, 8]
    assert sequence_mean(VALUES, **WHERE).tolist() == [3, 3, 4, 3, 0, 4]
    assert sequence_any(VALUES > 4, **WHERE).tolist() == [False, False, True, False, False, True]
    assert sequence_heads(**WHERE).tolist() == [False, True, True, False, False, False]


def test_gradient_of_a_mean_goes_to_its_counted_tokens_only():
    values = VALUES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(sequence_mean(values, **WHERE)[0], values)
    assert gradient.tolist() == [0, 0.5, 0, 0.5, 0, 0]


def test_nothing_is_safe():
    nothing = {"sequence_R": SEQUENCE[:0], "counted_R": COUNTED[:0]}
    assert sequence_mean(VALUES[:0], **nothing).shape == (0,)
    assert sequence_heads(**nothing).shape == (0,)
