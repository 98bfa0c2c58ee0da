"""Task arithmetic: the base plus weighted differences from it; a negative weight takes one away.

Source: https://arxiv.org/abs/2212.04089.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rlpost.bounds import number, option
from rlpost.merging.methods.base import (
    MOST_WEIGHT,
    BaseUse,
    MergedTensor,
    TensorInputs,
    Weighted,
    merges,
    require_positive_sum,
    weighted_sum,
)


@dataclass(kw_only=True)
class TaskArithmeticConfig:
    """The base plus weighted task vectors."""

    per_model: ClassVar[type[Weighted]] = Weighted
    base_use: ClassVar[BaseUse] = BaseUse.required
    num_models: ClassVar[int | None] = None
    by_entry: ClassVar[bool] = True

    normalize: bool = option(False, help="divide by the sum of the weights")
    lambda_: float = number(
        1.0, at_least=-MOST_WEIGHT, at_most=MOST_WEIGHT, help="factor of what the base gets"
    )

    def check_models(self, models: Sequence[Weighted], path: str) -> None:
        """Raises UserError: the sum of the weights is not above 0."""
        if self.normalize:
            require_positive_sum(models, path)


@merges.register("task_arithmetic", TaskArithmeticConfig)
def task_arithmetic(
    inputs: TensorInputs, models: Sequence[Weighted], cfg: TaskArithmeticConfig
) -> MergedTensor:
    """Return theta_0 + lambda * sum(w * tau), the sum divided by sum(w) if ``normalize``."""
    assert inputs.base is not None
    total = weighted_sum(inputs.task_vectors, models)
    factor = cfg.lambda_
    if cfg.normalize:
        factor /= sum(each.weight for each in models)
    return MergedTensor(value=total.mul_(factor).add_(inputs.base))
