"""Adafactor: a row and a column in place of a matrix's second moments, arXiv 1804.04235.

Owns its options and state. The arithmetic is that of transformers' ``Adafactor`` with a given
learning rate, without the scaling by the parameter's size (torch's class of the same name differs
by 0.04 of a step after ten). There is no first moment.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlpost.bounds import number
from rlpost.training.optimizers.adamw import zeros
from rlpost.training.optimizers.base import COUNT, OptimizerConfig, Parameter, optimizers
from rlpost.training.settings import TrainerConfig


@dataclass(kw_only=True)
class AdafactorConfig(OptimizerConfig):
    """Second moments by rows and columns, no first ones, arXiv 1804.04235; transformers'."""

    unread: ClassVar[tuple[str, ...]] = ("beta1", "beta2", "eps")

    kind: str = "adafactor"
    clip_threshold: float = number(
        1.0, above=0, at_most=1e6, help="an update with a longer root mean square is scaled down"
    )
    decay_rate: float = number(
        0.8,
        above=0,
        at_most=1,
        hint="the paper uses 0.8",
        help="the second moment's weight of the past after t updates is 1 - t^-decay_rate",
    )


@optimizers.register("adafactor", AdafactorConfig)
class Adafactor:
    """transformers' Adafactor, as ``Optimizer``."""

    name = "adafactor"
    elementwise = False

    def __init__(self, cfg: AdafactorConfig, trainer: TrainerConfig) -> None:
        self._cfg, self._trainer = cfg, trainer

    def options(self, parameter: Parameter) -> dict[str, Any]:
        return {}

    def state(self, tensor: Tensor, group: Mapping[str, Any], *, step: int) -> dict[str, Any]:
        shape = tensor.shape
        if len(shape) < 2:
            return {COUNT: step, "exp_avg_sq": zeros(tensor)}
        return {
            COUNT: step,
            "exp_avg_sq_row": zeros(tensor, *shape[:-1]),
            "exp_avg_sq_col": zeros(tensor, *shape[:-2], shape[-1]),
        }

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        from transformers.optimization import Adafactor as Factored

        made: torch.optim.Optimizer = Factored(
            groups,
            lr=0.0,
            clip_threshold=self._cfg.clip_threshold,
            decay_rate=-self._cfg.decay_rate,
            weight_decay=self._trainer.weight_decay,
            scale_parameter=False,
            relative_step=False,
        )
        return made
