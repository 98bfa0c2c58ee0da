"""Adam-mini: one second moment for each block of a parameter, arXiv 2406.16793.

Owns the blocks and the update. Refuses to own where heads are (parameters.py). A block is a head
of a query or key projection, a row of any other matrix, embedding or head, and the whole of a
vector. Every matrix has rows, those of an adapter too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from rlpost.training.optimizers.adamw import zeros
from rlpost.training.optimizers.base import COUNT, OptimizerConfig, Parameter, optimizers
from rlpost.training.optimizers.per_tensor import PerTensor, apply
from rlpost.training.settings import TrainerConfig


@dataclass(kw_only=True)
class AdamMiniConfig(OptimizerConfig):
    """AdamW with one second moment per head or row, arXiv 2406.16793."""

    kind: str = "adam_mini"


@optimizers.register("adam_mini", AdamMiniConfig)
class AdamMini:
    """Adam-mini, as ``Optimizer``."""

    name = "adam_mini"
    elementwise = False

    def __init__(self, cfg: AdamMiniConfig, trainer: TrainerConfig) -> None:
        self._trainer = trainer

    def options(self, parameter: Parameter) -> dict[str, Any]:
        return {"block_rows": parameter.head_dim or 1}

    def state(self, tensor: Tensor, group: Mapping[str, Any], *, step: int) -> dict[str, Any]:
        blocks = num_blocks(tuple(tensor.shape), block_rows=group["block_rows"])
        return {COUNT: step, "exp_avg": zeros(tensor), "exp_avg_sq": zeros(tensor, blocks)}

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return PerTensor(groups, trainer=self._trainer, kind=self, update=_update)


def num_blocks(shape: tuple[int, ...], *, block_rows: int) -> int:
    """Return how many second moments a parameter has.

    Example: ``num_blocks((576, 576), block_rows=64) == 9``; a vector has one.
    """
    rows = prod(shape[:-1]) if len(shape) > 1 else 1
    blocks, rest = divmod(rows, block_rows if len(shape) > 1 else 1)
    assert not rest, f"{rows} rows are no multiple of {block_rows}"
    return blocks


def _update(
    weight: Tensor, gradient: Tensor, state: dict[str, Any], group: Mapping[str, Any]
) -> None:
    (beta1, beta2), step = group["betas"], state[COUNT]
    blocks = state["exp_avg_sq"].numel()
    squares = gradient.reshape(blocks, -1).square().mean(dim=1)
    state["exp_avg"].lerp_(gradient, 1 - beta1)
    state["exp_avg_sq"].lerp_(squares, 1 - beta2)
    root = (state["exp_avg_sq"] / (1 - beta2**step)).sqrt_().add_(group["eps"])
    mean = state["exp_avg"].reshape(blocks, -1) / (1 - beta1**step)
    apply(weight, (mean / root[:, None]).view_as(weight), group)
