"""From an optimizer's options and a model's parameters to torch's optimizer.

Owns the groups: parameters share one where rate, decay and the optimizer's own answer are equal.
Refuses to own the learning rate of a step, which is set on every group times its factor.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlpost.training.optimizers.base import Optimizer, OptimizerConfig, Parameter, optimizers
from rlpost.training.settings import TrainerConfig

RATE = "rate"  # a group's factor on the learning rate


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """How a parameter's updates differ from those of others.

    Example: ``GroupOptions(rate=16.0)`` for the second matrix of LoRA+.
    """

    rate: float = 1.0  # times the learning rate
    weight_decay: float | None = None  # None: trainer.weight_decay


GroupOf = Callable[[str], GroupOptions]  # of a parameter's name


def one_group(name: str) -> GroupOptions:
    """Treat all parameters alike."""
    return GroupOptions()


def kind_of(cfg: OptimizerConfig, trainer: TrainerConfig) -> Optimizer:
    """Return the optimizer that ``cfg`` configures."""
    found: Optimizer = optimizers.get(cfg.kind).target(cfg, trainer)
    return found


def grouped(
    optimizer: Optimizer,
    trained: Mapping[str, Tensor],
    parameters: Mapping[str, Parameter],
    *,
    weight_decay: float,
    group_of: GroupOf = one_group,
) -> list[dict[str, Any]]:
    """Return torch's groups of ``trained``, in the order in which they come first.

    Args:
        optimizer: says which parameters belong together.
        trained: name -> what is updated.
        parameters: name -> its description.
        weight_decay: of groups without one of their own.
        group_of: says which parameters have a rate or a decay of their own.
    """
    groups: dict[Any, dict[str, Any]] = {}
    for name, tensor in trained.items():
        own, options = group_of(name), optimizer.options(parameters[name])
        decay = weight_decay if own.weight_decay is None else own.weight_decay
        group = {RATE: own.rate, "weight_decay": decay, **options}
        key = tuple(sorted(group.items(), key=lambda item: item[0]))
        groups.setdefault(key, {"params": [], **group})["params"].append(tensor)
    return list(groups.values())


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the next update: each group has its factor of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group[RATE]
