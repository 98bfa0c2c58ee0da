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
        if inputs.thresholds:
            mask = tau.abs() >= inputs.thresholds[index]
            if not mask.any():
                mask = largest(tau, 1 / max(1, tau.numel()))
        else:
            mask = largest(tau, own.density)
        trimmed.append(tau.masked_fill_(~mask, 0))
        kept.append(_share(mask))
    total = elected(trimmed, [each.weight for each in models], normalize=cfg.normalize)
    return MergedTensor(value=total.mul_(cfg.lambda_).add_(inputs.base), kept=kept)


def largest(tau: Tensor, density: float) -> Tensor:
    """Return a mask of the ``density`` share of entries that are largest, at least one of them.

    Args:
        tau: of any shape.
        density: in (0, 1].
    """
    size = tau.numel()
    count = num_kept(size, density)
    if count >= size:
        return torch.ones_like(tau, dtype=torch.bool)
    sizes = tau.abs().flatten()
    threshold = kth_largest(sizes, count)
    mask = sizes > threshold
    missing = count - int(mask.sum())
    equal = (sizes == threshold).nonzero()[:missing, 0]
    mask[equal] = True
    return mask.reshape(tau.shape)


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


def _share(mask: Tensor) -> float:
    return float(mask.sum()) / max(1, mask.numel())
