"""Sums over the tokens of each response, by response or handed back to its tokens.

Owns the reduction from tokens to responses, and the responses of each unit. Refuses to own what is
summed. Invariant: only counted tokens contribute, and a response is found by its number, not by its
place, so the result does not depend on packing.

Legend: R sampled tokens of one micro-batch, which holds whole responses; I responses, U units.
A response of several trajectories is one for each of them here.
``item_R`` is the number of each token's response (int64, 0 to I - 1), ``counted_R`` a bool mask.
"""

import torch
from torch import Tensor


def sequence_sum(values_R: Tensor, *, item_R: Tensor, counted_R: Tensor) -> Tensor:
    """Return at each token (R,) the sum over its response, with its gradient; 0 if none counts."""
    # Not a product: a masked token may hold inf, and inf * 0 is nan.
    kept_R = values_R.masked_fill(~counted_R, 0)
    # Every response has a token, so there are no more responses than tokens.
    sums = torch.zeros_like(kept_R).index_add(0, item_R, kept_R)
    return sums[item_R]


def sequence_mean(values_R: Tensor, *, item_R: Tensor, counted_R: Tensor) -> Tensor:
    """Return at each token (R,) the mean over its response, with its gradient; 0 if none counts."""
    ones_R = torch.ones_like(values_R)
    total_R = sequence_sum(values_R, item_R=item_R, counted_R=counted_R)
    count_R = sequence_sum(ones_R, item_R=item_R, counted_R=counted_R)
    return total_R / count_R.clamp(min=1)


def sequence_any(flags_R: Tensor, *, item_R: Tensor, counted_R: Tensor) -> Tensor:
    """Return at each token (R,) whether a counted token of its response has the flag."""
    flags = flags_R.to(torch.int64)
    return sequence_sum(flags, item_R=item_R, counted_R=counted_R) > 0


def of_items(repeated_R: Tensor, *, item_R: Tensor, num_items: int) -> Tensor:
    """Return one value per response (I,) of what its tokens all hold alike."""
    return repeated_R.new_zeros(num_items).scatter(0, item_R, repeated_R)


def item_sums(values_R: Tensor, *, item_R: Tensor, num_items: int) -> Tensor:
    """Return the sum over each response (I,), with its gradient."""
    return values_R.new_zeros(num_items).index_add(0, item_R, values_R)


def item_of_units(values_I: Tensor, *, unit_I: Tensor, num_units: int, place: int) -> Tensor:
    """Return the value of each unit's item number ``place`` (U,); 0 where it has fewer items.

    ``unit_I`` ascends. A dummy batch is a unit of one item, also among pairs.
    """
    units_U = torch.arange(num_units, device=unit_I.device)
    index_U = torch.searchsorted(unit_I, units_U) + place
    inside_U = index_U.clamp(max=len(unit_I) - 1)
    has_it_U = (index_U < len(unit_I)) & (unit_I[inside_U] == units_U)
    return values_I[inside_U].masked_fill(~has_it_U, 0)
