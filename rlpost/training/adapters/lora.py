"""LoRA and its close relatives: what of peft's layers each one switches on.

Owns LoRA, rank-stabilised LoRA and DoRA. Refuses to own the layers, which are peft's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rlpost.training.adapters.config import LoRAConfig, Served
from rlpost.training.adapters.registry import Method, Setting, adapters


def lora_layers(cfg: LoRAConfig, setting: Setting, **more: Any) -> Any:
    """Return peft's ``LoraConfig`` of the options; ``more`` are fields of it that a kind sets."""
    from peft import LoraConfig

    targets = cfg.target_modules
    return LoraConfig(
        r=cfg.rank,
        lora_alpha=cfg.alpha,
        lora_dropout=cfg.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        modules_to_save=list(cfg.modules_to_save) or None,
        task_type=setting.task_type,
        **cfg.switches,
        **more,
    )


@adapters.register("lora", LoRAConfig)
def lora(cfg: LoRAConfig) -> Method:
    """W + alpha / rank * B A, with B zero at first."""
    return Method(peft=lambda setting: lora_layers(cfg, setting))


@dataclass(kw_only=True)
class RSLoRAConfig(LoRAConfig):
    """LoRA scaled by alpha / sqrt(rank), so that high ranks learn as fast, arXiv 2312.03732."""

    switches: ClassVar[Mapping[str, bool]] = {"use_rslora": True}

    kind: str = "rslora"


@adapters.register("rslora", RSLoRAConfig)
def rslora(cfg: RSLoRAConfig) -> Method:
    """W + alpha / sqrt(rank) * B A."""
    return Method(peft=lambda setting: lora_layers(cfg, setting))


@dataclass(kw_only=True)
class DoRAConfig(LoRAConfig):
    """LoRA with a trained length of each output, arXiv 2402.09353."""

    served: ClassVar[Served] = Served.merged
    switches: ClassVar[Mapping[str, bool]] = {"use_dora": True}
    no_diagnosis: ClassVar[str] = "it also trains the length of each output, over which it divides"

    kind: str = "dora"


@adapters.register("dora", DoRAConfig)
def dora(cfg: DoRAConfig) -> Method:
    """m * (W + alpha / rank * B A) / |W + alpha / rank * B A|, with m the length at first."""
    return Method(peft=lambda setting: lora_layers(cfg, setting))
