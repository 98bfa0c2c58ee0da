"""Sums over the tokens of each response, handed back to its tokens.

Owns the reduction from tokens to responses. Refuses to own what is summed. Invariant: only
counted tokens contribute, and a response is found by its number, not by its place, so the
result does not depend on packing.

Legend: R response tokens of one micro-batch, which holds whole responses. ``sequence_R`` is
the number of each token's response (int64, any values), ``counted_R`` a bool mask.
"""

import torch
from torch import Tensor


def sequence_sum(values_R: Tensor, *, sequence_R: Tensor, counted_R: Tensor) -> Tensor:
    """Return at each token (R,) the sum over its response, with its gradient; 0 if none counts."""
    slots_R = _slots(sequence_R)
    # Not a product: a masked token may hold inf, and inf * 0 is nan.
    kept_R = values_R.masked_fill(~counted_R, 0)
    sums = torch.zeros_like(kept_R).index_add(0, slots_R, kept_R)
    return sums[slots_R]


def sequence_mean(values_R: Tensor, *, sequence_R: Tensor, counted_R: Tensor) -> Tensor:
    """Return at each token (R,) the mean over its response, with its gradient; 0 if none counts."""
    ones_R = torch.ones_like(values_R)
    total_R = sequence_sum(values_R, sequence_R=sequence_R, counted_R=counted_R)
    count_R = sequence_sum(ones_R, sequence_R=sequence_R, counted_R=counted_R)
    return total_R / count_R.clamp(min=1)


def sequence_any(flags_R: Tensor, *, sequence_R: Tensor, counted_R: Tensor) -> Tensor:
    """Return at each token (R,) whether a counted token of its response has the flag."""
    flags = flags_R.to(torch.int64)
    return sequence_sum(flags, sequence_R=sequence_R, counted_R=counted_R) > 0


def sequence_heads(*, sequence_R: Tensor, counted_R: Tensor) -> Tensor:
    """Mark one counted token of each response, its first: (R,) bool, to count responses."""
    slots_R = _slots(sequence_R)
    place_R = torch.arange(len(slots_R), device=slots_R.device)
    counted_place_R = place_R.masked_fill(~counted_R, len(slots_R))
    first = torch.full_like(place_R, len(slots_R)).scatter_reduce(
        0, slots_R, counted_place_R, reduce="amin"
    )
    return place_R == first[slots_R]


def _slots(sequence_R: Tensor) -> Tensor:
    slots_R: Tensor = torch.unique(sequence_R, return_inverse=True)[1]
    return slots_R
