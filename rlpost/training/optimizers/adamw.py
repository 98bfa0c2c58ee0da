"""AdamW: torch's own, element by element.

Owns its making and its state, which other kinds use for what they do not treat in their own way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlpost.training.optimizers.base import COUNT, OptimizerConfig, Parameter, optimizers
from rlpost.training.settings import TrainerConfig


@dataclass(kw_only=True)
class AdamWConfig(OptimizerConfig):
    """Two float32 moments a weight, the usual optimizer, arXiv 1711.05101."""

    kind: str = "adamw"
    zero_stages: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)


@optimizers.register("adamw", AdamWConfig)
class TorchAdamW:
    """torch's AdamW, as ``Optimizer``."""

    name = "adamw"
    elementwise = True

    def __init__(self, cfg: AdamWConfig, trainer: TrainerConfig) -> None:
        self._trainer = trainer

    def options(self, parameter: Parameter) -> dict[str, Any]:
        return {}

    def state(self, tensor: Tensor, group: Mapping[str, Any], *, step: int) -> dict[str, Any]:
        # A fused optimizer counts where it computes.
        count = torch.tensor(float(step), device=tensor.device)
        return {COUNT: count, "exp_avg": zeros(tensor), "exp_avg_sq": zeros(tensor)}

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            groups,
            lr=0.0,
            betas=(self._trainer.beta1, self._trainer.beta2),
            eps=self._trainer.eps,
            weight_decay=self._trainer.weight_decay,
            # One pass over weights and moments instead of a dozen, with no copies of them.
            fused=True,
        )


def zeros(tensor: Tensor, *shape: int) -> Tensor:
    """Return zeros of ``shape``, or of the tensor's own, in float32 beside it."""
    return torch.zeros(shape or tensor.shape, dtype=torch.float32, device=tensor.device)
