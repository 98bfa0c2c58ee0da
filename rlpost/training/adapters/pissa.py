"""PiSSA: LoRA that starts at the principal part of each weight, which the base then lacks.

Owns the options. Refuses to own the start and its conversion (principal_start.py).

Source: https://arxiv.org/abs/2404.02948.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

from rlpost.training.adapters.config import LoRAConfig
from rlpost.training.adapters.lora import lora_layers
from rlpost.training.adapters.registry import Companion, Method, Setting, adapters


@dataclass(kw_only=True)
class PiSSAConfig(LoRAConfig):
    """LoRA that starts at the principal part of each weight, arXiv 2404.02948."""

    is_converted: ClassVar[bool] = True
    moves_base: ClassVar[bool] = True
    no_diagnosis: ClassVar[str] = "its matrices also hold the part of the base that it starts from"

    kind: str = "pissa"

    @property
    def served_rank(self) -> int:
        return 2 * self.rank  # what was learned, and the start that it is less

    @classmethod
    def of_peft(cls, fields: Mapping[str, Any]) -> Self | None:
        """Return None: what is saved is LoRA of twice the rank, on the original base."""
        return None


@adapters.register("pissa", PiSSAConfig)
def pissa(cfg: PiSSAConfig) -> Method:
    """W - s B' A' + s B A, with B A at first B' A', the principal part of W divided by s."""
    return Method(peft=lambda setting: lora_layers(cfg, setting), companion=partial(_start, cfg))


def _start(cfg: PiSSAConfig, module: Any, setting: Setting) -> Companion:
    from rlpost.training.adapters.principal_start import PrincipalStart

    return PrincipalStart(module.model, setting.weights)
