"""AdamW with moments of 8 bits: bitsandbytes' own, quantized by blocks of 256 values.

Owns its options and state. Refuses to own the arithmetic. A parameter below 4,096 values keeps
float32 moments. The tables of the quantization are constants, which are not saved.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlpost.bounds import option
from rlpost.foreign_output import quiet_bitsandbytes
from rlpost.training.optimizers.adamw import zeros
from rlpost.training.optimizers.base import COUNT, OptimizerConfig, Parameter, optimizers
from rlpost.training.settings import TrainerConfig

BLOCK = 256
MIN_VALUES = 4096  # of a parameter with 8-bit moments; bitsandbytes' own
MIN_PAGED_VALUES = 100_000  # of a parameter whose moments are paged; bitsandbytes' own


@dataclass(kw_only=True)
class AdamW8bitConfig(OptimizerConfig):
    """AdamW with moments of 8 bits; bitsandbytes', arXiv 2110.02861."""

    kind: str = "adamw_8bit"
    paged: bool = option(
        False, help="keep moments in memory that moves between GPU and host; needs a GPU"
    )


@optimizers.register("adamw_8bit", AdamW8bitConfig)
class AdamW8bit:
    """bitsandbytes' AdamW8bit, as ``Optimizer``."""

    name = "adamw_8bit"
    elementwise = False

    def __init__(self, cfg: AdamW8bitConfig, trainer: TrainerConfig) -> None:
        self._cfg, self._trainer = cfg, trainer

    def options(self, parameter: Parameter) -> dict[str, Any]:
        return {}

    def state(self, tensor: Tensor, group: Mapping[str, Any], *, step: int) -> dict[str, Any]:
        if tensor.numel() < MIN_VALUES:
            return {COUNT: step, "state1": zeros(tensor), "state2": zeros(tensor)}
        blocks = -(-tensor.numel() // BLOCK)
        return {
            COUNT: step,
            "state1": self._bytes(tensor),
            "state2": self._bytes(tensor),
            "absmax1": zeros(tensor, blocks),
            "absmax2": zeros(tensor, blocks),
        }

    def _bytes(self, tensor: Tensor) -> Tensor:
        if not self._cfg.paged or tensor.device.type != "cuda" or tensor.numel() < MIN_PAGED_VALUES:
            return torch.zeros(tensor.shape, dtype=torch.uint8, device=tensor.device)
        quiet_bitsandbytes()
        from bitsandbytes import functional

        paged = functional.get_paged(*tensor.shape, dtype=torch.uint8, device=tensor.device)
        functional.fill(paged, 0)
        return paged

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        quiet_bitsandbytes()
        import bitsandbytes

        class Restorable(bitsandbytes.optim.AdamW8bit):
            """Adds the tables to a state that was restored without them."""

            def update_step(self, group: Any, p: Any, gindex: int, pindex: int) -> None:
                state = self.state[p]
                if state["state1"].dtype is torch.uint8 and "qmap1" not in state:
                    state["qmap1"] = self.name2qmap["dynamic"].to(p.device)
                    state["qmap2"] = self.name2qmap["udynamic"].to(p.device)
                super().update_step(group, p, gindex, pindex)

        trainer = self._trainer
        made: torch.optim.Optimizer = Restorable(
            groups,
            lr=0.0,
            betas=(trainer.beta1, trainer.beta2),
            eps=trainer.eps,
            weight_decay=trainer.weight_decay,
            min_8bit_size=MIN_VALUES,
            is_paged=self._cfg.paged,
        )
        return made
