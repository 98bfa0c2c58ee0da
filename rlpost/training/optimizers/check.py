"""Refuses options with which an optimizer cannot work, or which have no effect.

Owns the rules between an optimizer and its trainer, and those that need a device or a model.
Refuses to own the bounds of single options, which stand beside them.
"""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from rlpost.errors import UserError
from rlpost.training.adapters.config import LoRAConfig
from rlpost.training.optimizers.adamw_8bit import AdamW8bitConfig
from rlpost.training.optimizers.base import OptimizerConfig, Parameter, Place
from rlpost.training.optimizers.galore import GaLoreConfig
from rlpost.training.settings import TrainerConfig


def check_optimizer(cfg: OptimizerConfig, trainer: TrainerConfig) -> None:
    """Refuse what can be refused before anything is read.

    Raises:
        UserError: names the option, its value, the rule and the way out.
    """
    if trainer.zero_stage not in cfg.zero_stages:
        stages = ", ".join(map(str, cfg.zero_stages))
        raise UserError(
            f"trainer.zero_stage={trainer.zero_stage} cuts parameters into pieces, and "
            f"optimizer={cfg.kind} needs them whole: it works with trainer.zero_stage={stages}; "
            "set that, or use optimizer=adamw"
        )
    declared = {each.name: each.default for each in fields(trainer)}
    for name in cfg.unread:
        value = getattr(trainer, name)
        if value != declared[name]:
            raise UserError(
                f"trainer.{name}={value:g} has no effect with optimizer={cfg.kind}, which does "
                "not read it; leave it out, or use optimizer=adamw"
            )


def check_device(cfg: OptimizerConfig, *, on_gpu: bool) -> None:
    """Raises UserError: moments are to be paged where there is nothing to page to."""
    if isinstance(cfg, AdamW8bitConfig) and cfg.paged and not on_gpu:
        raise UserError(
            "optimizer.paged=true moves moments between GPU and host memory, and this run is on "
            "CPU, where they are in host memory anyway; leave it out"
        )


def check_adapter(cfg: OptimizerConfig, adapter: Any) -> None:
    """Refuse an optimizer that would treat no matrix of an adapter in its own way.

    Args:
        cfg: the optimizer's options.
        adapter: those of what is trained in place of the whole model.

    Raises:
        UserError: GaLore would project nothing.
    """
    if isinstance(adapter, LoRAConfig) and not adapter.modules_to_save:
        check_parameters(cfg, [Parameter(shape=(adapter.rank, adapter.rank))])


def check_parameters(cfg: OptimizerConfig, parameters: Iterable[Parameter]) -> None:
    """Raises UserError: GaLore would project nothing, and be AdamW under another name."""
    if not isinstance(cfg, GaLoreConfig):
        return
    sides = [
        min(each.shape)
        for each in parameters
        if each.place is Place.hidden and len(each.shape) == 2
    ]
    if max(sides, default=0) <= cfg.rank:
        raise UserError(
            f"optimizer.rank={cfg.rank} must be below the shorter side of a trained matrix in the "
            f"model's layers, the largest of which is {max(sides, default=0)}: nothing would be "
            "projected; lower it, or use optimizer=adamw"
        )
