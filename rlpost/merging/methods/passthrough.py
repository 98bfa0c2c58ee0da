"""Passthrough: the tensors of one model, for recipes that choose its layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rlpost.merging.methods.base import BaseUse, MergedTensor, PerModel, TensorInputs, merges


@dataclass(kw_only=True)
class PassthroughConfig:
    """The layers of one model, as they are."""

    per_model: ClassVar[type[PerModel]] = PerModel
    base_use: ClassVar[BaseUse] = BaseUse.measured
    num_models: ClassVar[int | None] = 1
    by_entry: ClassVar[bool] = True

    def check_models(self, models: Sequence[PerModel], path: str) -> None:
        """Nothing can be wrong: the model has no options."""


@merges.register("passthrough", PassthroughConfig)
def passthrough(
    inputs: TensorInputs, models: Sequence[PerModel], cfg: PassthroughConfig
) -> MergedTensor:
    """Return a copy of the tensor."""
    return MergedTensor(value=inputs.values[0].clone())
