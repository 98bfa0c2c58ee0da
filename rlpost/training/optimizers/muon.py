"""Muon: orthogonalised momentum for matrices of the decoder's layers, AdamW for the rest.

Owns which parameter goes where. The arithmetic is torch's (``torch.optim.Muon``, which computes
Newton-Schulz in bfloat16).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from rlpost.bounds import number, option
from rlpost.training.optimizers.adamw import AdamWConfig, TorchAdamW, zeros
from rlpost.training.optimizers.base import (
    COUNT,
    OptimizerConfig,
    Parameter,
    Place,
    optimizers,
)
from rlpost.training.optimizers.together import Together
from rlpost.training.settings import TrainerConfig


class MuonRate(Enum):
    """How the learning rate follows from the shape of a matrix.

    ``match_rms_adamw`` makes steps as long as AdamW's, so that AdamW's rates fit; ``original``
    is that of Muon's author, who uses rates near 0.02.
    """

    match_rms_adamw = "match_rms_adamw"
    original = "original"


@dataclass(kw_only=True)
class MuonConfig(OptimizerConfig):
    """Orthogonalised momentum for the layers' matrices, AdamW for the rest; torch's Muon."""

    kind: str = "muon"
    momentum: float = number(
        0.95, at_least=0, below=1, hint="0.95 is usual", help="decay of the gradients' sum"
    )
    nesterov: bool = option(True, help="add the gradient once more to the momentum")
    iterations: int = number(
        5, at_least=1, at_most=99, hint="5 is usual", help="of Newton and Schulz, per update"
    )
    rate: MuonRate = option(
        MuonRate.match_rms_adamw, help="what the learning rate is: that of AdamW, or Muon's own"
    )

    def check(self, path: str) -> None:
        """Raises UserError: Nesterov's step without momentum."""
        from rlpost.errors import UserError

        if self.nesterov and self.momentum == 0:
            raise UserError(
                f"{path}.nesterov=true has no effect with {path}.momentum=0; set "
                f"{path}.nesterov=false, or a momentum, 0.95 is usual"
            )


@optimizers.register("muon", MuonConfig)
class Muon:
    """torch's Muon beside torch's AdamW, as ``Optimizer``."""

    name = "muon"
    elementwise = False

    def __init__(self, cfg: MuonConfig, trainer: TrainerConfig) -> None:
        self._cfg, self._trainer = cfg, trainer
        self._rest = TorchAdamW(AdamWConfig(), trainer)

    def options(self, parameter: Parameter) -> dict[str, Any]:
        matrix = parameter.place is Place.hidden and len(parameter.shape) == 2
        return {"orthogonal": matrix}

    def state(self, tensor: Tensor, group: Mapping[str, Any], *, step: int) -> dict[str, Any]:
        if group["orthogonal"]:
            return {COUNT: step, "momentum_buffer": zeros(tensor)}
        return self._rest.state(tensor, group, step=step)

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        matrices = [group for group in groups if group["orthogonal"]]
        others = [group for group in groups if not group["orthogonal"]]
        parts: list[torch.optim.Optimizer] = []
        if matrices:
            parts.append(
                _CountedMuon(
                    matrices,
                    lr=0.0,
                    weight_decay=self._trainer.weight_decay,
                    momentum=self._cfg.momentum,
                    nesterov=self._cfg.nesterov,
                    ns_steps=self._cfg.iterations,
                    adjust_lr_fn=self._cfg.rate.value,
                )
            )
        if others:
            parts.append(self._rest.make(others))
        return Together(parts)


class _CountedMuon(torch.optim.Muon):
    """torch's, which does not count its updates."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        super().step(closure)
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self.state[weight][COUNT] = self.state[weight].get(COUNT, 0) + 1
