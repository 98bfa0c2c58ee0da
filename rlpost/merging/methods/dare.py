"""DARE: drop entries of each task vector at random and scale up the rest, then add or elect.

Source: https://arxiv.org/abs/2311.03099. Owns the dropping. Invariants: the mask follows from a
seed of the tensor and the model alone; a tensor of which nothing would remain is kept whole.
"""

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
    merges,
    require_positive_sum,
    weighted_sum,
)
from rlpost.merging.methods.ties import elected


class Rescale(Enum):
    """How entries that remain make up for those that were dropped."""

    density = "density"  # 1 / density, which keeps the expected value
    l1 = "l1"  # so that the sum of sizes stays
    none = "none"

    @classmethod
    def _missing_(cls, value: object) -> "Rescale | None":
        """Recipes say true or false, too."""
        if isinstance(value, bool):
            return cls.density if value else cls.none
        return None


@dataclass(kw_only=True)
class DareConfig:
    """Task vectors with entries dropped at random."""

    per_model: ClassVar[type[Sparse]] = Sparse
    base_use: ClassVar[BaseUse] = BaseUse.required
    num_models: ClassVar[int | None] = None
    by_entry: ClassVar[bool] = False

    normalize: bool = option(False, help="divide by the sum of the weights")
    lambda_: float = number(
        1.0, at_least=-MOST_WEIGHT, at_most=MOST_WEIGHT, help="factor of what the base gets"
    )
    rescale: Rescale = option(
        Rescale.density, help="divide what remains by the density, or keep its L1 norm, or neither"
    )

    def check_models(self, models: Sequence[Sparse], path: str) -> None:
        """Raises UserError: the sum of the weights is not above 0."""
        if self.normalize:
            require_positive_sum(models, path)


@merges.register("dare_linear", DareConfig)
def dare_linear(inputs: TensorInputs, models: Sequence[Sparse], cfg: DareConfig) -> MergedTensor:
    """Return theta_0 + lambda * sum(w * dropped tau)."""
    assert inputs.base is not None
    remaining, kept = _remaining(inputs, models, cfg)
    factor = cfg.lambda_
    if cfg.normalize:
        factor /= sum(each.weight for each in models)
    total = weighted_sum(remaining, models)
    return MergedTensor(value=total.mul_(factor).add_(inputs.base), kept=kept)


@dataclass(kw_only=True)
class DareTiesConfig(DareConfig):
    """Task vectors with entries dropped at random, where the rest agree on a sign."""

    normalize: bool = option(False, help="average what agrees; false: add it")

    def check_models(self, models: Sequence[Sparse], path: str) -> None:
        """Nothing can be wrong: entries on which no weight agrees stay as in the base."""


@merges.register("dare_ties", DareTiesConfig)
def dare_ties(inputs: TensorInputs, models: Sequence[Sparse], cfg: DareTiesConfig) -> MergedTensor:
    """Return theta_0 + lambda * (dropped tau that have the elected sign)."""
    assert inputs.base is not None
    remaining, kept = _remaining(inputs, models, cfg)
    total = elected(remaining, [each.weight for each in models], normalize=cfg.normalize)
    return MergedTensor(value=total.mul_(cfg.lambda_).add_(inputs.base), kept=kept)


def _remaining(
    inputs: TensorInputs, models: Sequence[Sparse], cfg: DareConfig
) -> tuple[list[Tensor], list[float]]:
    """Return what remains of each task vector, and its share."""
    remaining, kept = [], []
    for value, own, seed in zip(inputs.values, models, inputs.seeds, strict=True):
        assert inputs.base is not None
        tau, share = dropped(
            value - inputs.base, density=own.density, seed=seed, rescale=cfg.rescale
        )
        remaining.append(tau)
        kept.append(share)
    return remaining, kept


def dropped(tau: Tensor, *, density: float, seed: int, rescale: Rescale) -> tuple[Tensor, float]:
    """Drop entries with the probability 1 - ``density``; return the rest and its share.

    Args:
        tau: float32; overwritten.
        density: in (0, 1].
        seed: of the mask.
        rescale: what the rest is multiplied by.
    """
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(tau.shape, generator=generator) < density
    count = int(mask.sum())
    if density == 1 or count == 0:
        return tau, 1.0
    share = count / tau.numel()
    before = float(tau.abs().sum()) if rescale is Rescale.l1 else 0.0
    tau.mul_(mask)
    if rescale is Rescale.density:
        tau /= density
    elif rescale is Rescale.l1:
        after = float(tau.abs().sum())
        tau *= before / after if after > 0 else 1.0
    return tau, share
