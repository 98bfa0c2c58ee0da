"""SLERP: interpolation along the sphere, of weights or of task vectors.

Owns the interpolation of whole tensors. Two fine-tunes of one base are so close to each other
that the sphere between their weights is flat, and the result is their mean: the cosine is
reported, and ``nuslerp`` with a base interpolates what they learned.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlpost.bounds import number
from rlpost.errors import UserError
from rlpost.merging.methods.base import (
    BaseUse,
    MergedTensor,
    PerModel,
    TensorInputs,
    Weighted,
    merges,
    require_positive_sum,
)

_FLAT = 0.9995  # above this |cosine| the sphere is a line
_NO_LENGTH = 1e-8


@dataclass(kw_only=True)
class SlerpConfig:
    """From the first model's weights to the second's, along the sphere."""

    per_model: ClassVar[type[PerModel]] = PerModel
    base_use: ClassVar[BaseUse] = BaseUse.measured
    num_models: ClassVar[int | None] = 2
    by_entry: ClassVar[bool] = False

    t: float = number(0.5, at_least=0, at_most=1, help="0: the first model, 1: the second")

    def check_models(self, models: Sequence[PerModel], path: str) -> None:
        """Nothing can be wrong: the models have no options."""


@merges.register("slerp", SlerpConfig)
def slerp(inputs: TensorInputs, models: Sequence[PerModel], cfg: SlerpConfig) -> MergedTensor:
    """Interpolate the weights of two models."""
    first, second = inputs.values
    value, cosine = interpolated(first, second, cfg.t)
    return MergedTensor(value=value, cosine=cosine)


@dataclass(kw_only=True)
class NuSlerpConfig:
    """Between two models by their weights, on task vectors if there is a base."""

    per_model: ClassVar[type[Weighted]] = Weighted
    base_use: ClassVar[BaseUse] = BaseUse.optional
    num_models: ClassVar[int | None] = 2
    by_entry: ClassVar[bool] = False

    def check_models(self, models: Sequence[Weighted], path: str) -> None:
        """Raises UserError: the weights are no shares of the way from one to the other."""
        require_positive_sum(models, path)
        for index, each in enumerate(models):
            if each.weight < 0:
                raise UserError(
                    f"{path}.models[{index}].weight must be at least 0 with nuslerp, got "
                    f"{each.weight:g}; task_arithmetic takes a task vector away"
                )


@merges.register("nuslerp", NuSlerpConfig)
def nuslerp(inputs: TensorInputs, models: Sequence[Weighted], cfg: NuSlerpConfig) -> MergedTensor:
    """Interpolate weights, or what two models learned, the second having w2 / (w1 + w2)."""
    t = models[1].weight / (models[0].weight + models[1].weight)
    first, second = inputs.values if inputs.base is None else inputs.task_vectors
    value, cosine = interpolated(first, second, t)
    if inputs.base is not None:
        value += inputs.base
    return MergedTensor(value=value, cosine=cosine)


def interpolated(first: Tensor, second: Tensor, t: float) -> tuple[Tensor, float | None]:
    """Return the point at ``t`` between two tensors, and the cosine between them.

    Lengths are interpolated with the directions. Where the cosine is that of a line, or one of
    the tensors has no length (cosine None), it is linear.
    """
    length = math.sqrt(squared(first)) * math.sqrt(squared(second))
    cosine = dot(first, second) / length if length > _NO_LENGTH**2 else None
    if cosine is None or abs(cosine) > _FLAT:
        left, right = 1 - t, t
    else:
        angle = math.acos(cosine)
        left, right = (math.sin(part * angle) / math.sin(angle) for part in (1 - t, t))
    return (first * left).add_(second, alpha=right), cosine


def dot(first: Tensor, second: Tensor) -> float:
    """Return the inner product of two tensors as vectors."""
    return float(first.flatten() @ second.flatten())


def squared(tensor: Tensor) -> float:
    """Return the squared length of a tensor as a vector."""
    return dot(tensor, tensor)
