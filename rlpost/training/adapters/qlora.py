"""QLoRA: LoRA beside a base whose linear layers are kept in 4 bits.

Owns the options. Refuses to own the layers of the base (four_bit.py).

Source: https://arxiv.org/abs/2305.14314.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from rlpost.training.adapters.config import LoRAConfig, Served
from rlpost.training.adapters.lora import lora_layers
from rlpost.training.adapters.registry import Method, adapters


@dataclass(kw_only=True)
class QLoRAConfig(LoRAConfig):
    """LoRA beside a base that is kept in 4 bits (NF4), arXiv 2305.14314."""

    served: ClassVar[Served] = Served.merged
    zero_stages: ClassVar[tuple[int, ...]] = (0, 1, 2)
    stage_reason: ClassVar[str] = "weights of 4 bits cannot be divided among ranks"
    four_bit: ClassVar[bool] = True

    kind: str = "qlora"

    @classmethod
    def of_peft(cls, fields: Mapping[str, Any]) -> Self | None:
        """Return None: what it leaves behind is LoRA, and its base is not the original."""
        return None


@adapters.register("qlora", QLoRAConfig)
def qlora(cfg: QLoRAConfig) -> Method:
    """Q(W) + alpha / rank * B A, with Q(W) what 4 bits stand for."""
    return Method(peft=lambda setting: lora_layers(cfg, setting), prepare=_quantize)


def _quantize(model: Any) -> None:
    from rlpost.training.adapters.four_bit import quantize

    quantize(model)
