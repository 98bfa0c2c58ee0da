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
from rlpost.training.optimizers.muon import MuonConfig
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
    _refuse_changed(cfg.unread, trainer, by=f"optimizer={cfg.kind}, which does not read it")


def _refuse_changed(names: Iterable[str], trainer: TrainerConfig, *, by: str) -> None:
    """Refuse options of the trainer that are not read and have another value than by default."""
    declared = {each.name: each.default for each in fields(trainer)}
    for name in names:
        value = getattr(trainer, name)
        if value != declared[name]:
            raise UserError(
                f"trainer.{name}={value:g} has no effect with {by}; leave it out, or use "
                "optimizer=adamw"
            )


def check_device(cfg: OptimizerConfig, *, on_gpu: bool) -> None:
    """Raises UserError: moments are to be paged where there is nothing to page to."""
    if isinstance(cfg, AdamW8bitConfig) and cfg.paged and not on_gpu:
        raise UserError(
            "optimizer.paged=true moves moments between GPU and host memory, and this run is on "
            "CPU, where they are in host memory anyway; leave it out"
        )


def check_offload(trainer: TrainerConfig, *, on_gpu: bool, has_adapter: bool) -> None:
    """Raises UserError: an optimizer is to leave a GPU that there is not, or where it is small."""
    if not trainer.offload_optimizer:
        return
    if not on_gpu:
        raise UserError(
            "trainer.offload_optimizer=true moves the optimizer from GPU to host memory, and this "
            "run is on CPU, where it is in host memory anyway; leave it out"
        )
    if has_adapter:
        raise UserError(
            "trainer.offload_optimizer=true moves masters, moments and gradients of what is "
            "trained, and with an adapter that is too little to be worth its transfers; leave it "
            "out, or train all weights with adapter=none"
        )


def check_adapter(
    cfg: OptimizerConfig, adapter: Any, *, trainer: TrainerConfig, has_head: bool = False
) -> None:
    """Refuse an optimizer that cannot treat an adapter in its own way, and what it does not read.

    Args:
        cfg: the optimizer's options.
        adapter: those of what is trained in place of the whole model.
        trainer: the trainer's.
        has_head: whether a head that is not the model's own is trained beside it.

    Raises:
        UserError: names the options, the reason and the way out.
    """
    if isinstance(cfg, MuonConfig) and adapter.no_muon:
        raise UserError(
            f"optimizer=muon cannot train adapter={adapter.kind}: {adapter.no_muon}; use "
            "optimizer=adamw, or adapter=lora"
        )
    if getattr(adapter, "modules_to_save", None):
        return
    side = _shorter_side(adapter)
    check_parameters(cfg, [Parameter(shape=(side, side))])
    only_matrices = isinstance(adapter, LoRAConfig) and not adapter.switches.get("use_dora")
    if isinstance(cfg, MuonConfig) and only_matrices and not has_head:
        what = f"optimizer=muon and adapter={adapter.kind}, whose matrices are all Muon's"
        _refuse_changed(("beta1", "beta2", "eps"), trainer, by=what)


def _shorter_side(adapter: Any) -> int:
    """Return that of an adapter's matrices in the layers; 0: it has none."""
    if isinstance(adapter, LoRAConfig):
        return adapter.rank
    return getattr(adapter, "initial_rank", 0)


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
