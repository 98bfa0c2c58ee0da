"""LoRA+: LoRA whose second matrix learns faster.

Owns the two rates. Refuses to own the schedule, which both follow.

Source: https://arxiv.org/abs/2402.12354.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from rlpost.bounds import number
from rlpost.training.adapters.config import LoRAConfig
from rlpost.training.adapters.lora import lora_layers
from rlpost.training.adapters.registry import Method, adapters


@dataclass(kw_only=True)
class LoRAPlusConfig(LoRAConfig):
    """LoRA whose B learns faster than its A, arXiv 2402.12354."""

    kind: str = "lora_plus"
    ratio: float = number(
        16.0,
        at_least=1,
        at_most=10**4,
        hint="16 is usual",
        help="rate of B, which is zero at first, over that of A: ratio * trainer.lr",
    )

    @classmethod
    def of_peft(cls, fields: Mapping[str, Any]) -> Self | None:
        """Return None: what it leaves behind is LoRA, and nothing in it tells the rates."""
        return None


@adapters.register("lora_plus", LoRAPlusConfig)
def lora_plus(cfg: LoRAPlusConfig) -> Method:
    """W + alpha / rank * B A, with B at ``ratio`` times the rate of A."""
    return Method(
        peft=lambda setting: lora_layers(cfg, setting),
        rate_factors=lambda names: {n: cfg.ratio if ".lora_B." in n else 1.0 for n in names},
    )
