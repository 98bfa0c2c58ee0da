"""TIES: trim each task vector, elect a sign for each entry, and average those that agree.

Source: https://arxiv.org/abs/2306.01708. Owns the election, which DARE shares, and the trimming.
Invariant: entries of equal size at the threshold are kept from the front of the tensor, so that
exactly the asked number is kept whatever sorts them; of bfloat16 checkpoints a sixth of the
entries may be that equal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor

from rlpost.bounds import number, option
from rlpost.merging.methods.base import (
    MOST_WEIGHT,
    BaseUse,
    Cut,
    MergedTensor,
    Sparse,
    TensorInputs,
    in_chunks,
    merges,
)


class TrimScope(Enum):
    """Of what the largest entries are kept."""

    tensor = "tensor"
    model = "model"


@dataclass(kw_only=True)
class TiesConfig:
    """Largest entries of the task vectors, where they agree on a sign."""

    per_model: ClassVar[type[Sparse]] = Sparse
    base_use: ClassVar[BaseUse] = BaseUse.required
    num_models: ClassVar[int | None] = None
    by_entry: ClassVar[bool] = True

    normalize: bool = option(True, help="average what agrees; false: add it")
    lambda_: float = number(
        1.0, at_least=-MOST_WEIGHT, at_most=MOST_WEIGHT, help="factor of what the base gets"
    )
    trim: TrimScope = option(
        TrimScope.tensor, help="keep the largest entries of each tensor, or of each model"
    )

    def check_models(self, models: Sequence[Sparse], path: str) -> None:
        """Nothing can be wrong: entries on which no weight agrees stay as in the base."""


@merges.register("ties", TiesConfig)
def ties(inputs: TensorInputs, models: Sequence[Sparse], cfg: TiesConfig) -> MergedTensor:
    """Return theta_0 + lambda * (mean of the trimmed tau that have the elected sign)."""
    assert inputs.base is not None
    trimmed, kept = [], []
    for index, (value, own) in enumerate(zip(inputs.values, models, strict=True)):
        tau = value - inputs.base
        cut = inputs.cuts[index] if inputs.cuts else cut_of(tau.abs().flatten(), own.density)
        mask = cut.mask(tau, start=inputs.start)
        trimmed.append(tau.masked_fill_(~mask.reshape(tau.shape), 0))
        kept.append(float(mask.sum()) / max(1, mask.numel()))
    total = elected(trimmed, [each.weight for each in models], normalize=cfg.normalize)
    return MergedTensor(value=total.mul_(cfg.lambda_).add_(inputs.base), kept=kept)


def cut_of(sizes: Tensor, density: float, *, of_model: float | None = None) -> Cut:
    """Return what keeps the ``density`` share of entries that are largest, at least one of them.

    Args:
        sizes: of all entries of a task vector, flat.
        density: in (0, 1].
        of_model: the size from which on entries are kept of a whole model, instead of a share of
            this tensor.
    """
    count = num_kept(sizes.numel(), density)
    if of_model is not None:
        if float(sizes.max()) >= of_model:
            return Cut(size=of_model, end=sizes.numel())
        count = 1
    if count >= sizes.numel():
        return Cut(size=-1.0, end=0)
    threshold = kth_largest(sizes, count)
    missing = count - sum(int((part > threshold).sum()) for (part,) in in_chunks([sizes]))
    end = 0
    for (part,) in in_chunks([sizes]):
        equal = (part == threshold).nonzero()[:, 0]
        if len(equal) >= missing:
            return Cut(size=threshold, end=end + int(equal[missing - 1]) + 1)
        missing -= len(equal)
        end += len(part)
    raise AssertionError("fewer entries reach the threshold than were counted")


def num_kept(size: int, density: float) -> int:
    """Return how many of ``size`` entries are kept: a tiny tensor keeps at least one."""
    return min(size, max(1, math.floor(density * size + 1e-9)))


def kth_largest(sizes: Tensor, count: int) -> float:
    """Return the value that ``count`` entries reach, the ``count``-th largest."""
    import numpy

    place = sizes.numel() - count
    return float(numpy.partition(sizes.numpy(), place)[place])


def elected(tensors: Sequence[Tensor], weights: Sequence[float], *, normalize: bool) -> Tensor:
    """Return the weighted sum, or mean, of the entries with the sign of the sum of all.

    An entry on which the weighted sum is 0 counts as positive. The mean divides by the sizes of
    the weights that agree, so that a negative weight takes away instead of adding.

    Args:
        tensors: task vectors.
        weights: one for each.
        normalize: divide by the sum of the agreeing weights.
    """
    result = torch.empty_like(tensors[0]).flatten()
    for target, *parts in in_chunks([result, *tensors]):
        weighted = [part * weight for part, weight in zip(parts, weights, strict=True)]
        total = torch.zeros_like(target)
        for each in weighted:
            total += each
        sign = torch.where(total >= 0, 1.0, -1.0)
        target.zero_()
        divisor = torch.zeros_like(target)
        for each, weight in zip(weighted, weights, strict=True):
            agreeing = each.mul_(sign).clamp_(min=0)  # its size, or 0 where it disagrees
            target += agreeing
            if normalize:
                divisor.add_(agreeing.sign_(), alpha=abs(weight))
        if normalize:
            divisor[divisor == 0] = 1
            target /= divisor
        target *= sign
    return result.reshape(tensors[0].shape)
