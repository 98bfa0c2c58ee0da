"""The size above which an entry belongs to the largest of a whole model.

Owns an exact selection without holding a model: the bits of a positive float32 are ordered as its
value, so two counts over all tensors, of the upper and then the lower half of the bits, find it.
"""

import struct
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from rlpost.merging.methods.ties import num_kept

_HALF = 16  # bits


def model_threshold(tensors: Callable[[], Iterator[Tensor]], density: float) -> float:
    """Return the largest size that the ``density`` share of all entries reaches.

    Args:
        tensors: yields the task vector, float32, tensor by tensor; called twice.
        density: in (0, 1]; at least one entry is kept.
    """
    upper = torch.zeros(2**_HALF, dtype=torch.int64)
    for tensor in tensors():
        upper += torch.bincount(_bits(tensor) >> _HALF, minlength=len(upper))
    wanted = num_kept(int(upper.sum()), density)
    high, above = _bin_of(upper, wanted)
    lower = torch.zeros(2**_HALF, dtype=torch.int64)
    for tensor in tensors():
        bits = _bits(tensor)
        inside = bits[bits >> _HALF == high] & (2**_HALF - 1)
        lower += torch.bincount(inside, minlength=len(lower))
    low, _ = _bin_of(lower, wanted - above)
    return float(struct.unpack("<f", struct.pack("<I", high << _HALF | low))[0])


def _bits(tensor: Tensor) -> Tensor:
    return tensor.abs().flatten().view(torch.int32).long()


def _bin_of(counts: Tensor, wanted: int) -> tuple[int, int]:
    """Return the bin that holds the ``wanted``-th largest entry, and how many lie above it."""
    from_top = counts.flip(0).cumsum(0)
    place = int((from_top >= wanted).nonzero()[0, 0])
    number = len(counts) - 1 - place
    return number, int(from_top[place] - counts[number])
