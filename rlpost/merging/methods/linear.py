"""Linear merging: the weighted mean of the weights.

A uniform soup is the mean of all. Source: https://arxiv.org/abs/2203.05482.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rlpost.bounds import option
from rlpost.merging.methods.base import (
    BaseUse,
    MergedTensor,
    TensorInputs,
    Weighted,
    merges,
    require_positive_sum,
    weighted_sum,
)


@dataclass(kw_only=True)
class LinearConfig:
    """Weighted mean of the weights."""

    per_model: ClassVar[type[Weighted]] = Weighted
    base_use: ClassVar[BaseUse] = BaseUse.measured
    num_models: ClassVar[int | None] = None
    by_entry: ClassVar[bool] = True

    normalize: bool = option(True, help="divide by the sum of the weights")

    def check_models(self, models: Sequence[Weighted], path: str) -> None:
        """Raises UserError: the sum of the weights is not above 0."""
        if self.normalize:
            require_positive_sum(models, path)


@merges.register("linear", LinearConfig)
def linear(inputs: TensorInputs, models: Sequence[Weighted], cfg: LinearConfig) -> MergedTensor:
    """Return sum(w * theta), divided by sum(w) if ``normalize``."""
    total = weighted_sum(inputs.values, models)
    if cfg.normalize:
        total /= sum(each.weight for each in models)
    return MergedTensor(value=total)
