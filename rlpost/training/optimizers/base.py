"""What an optimizer declares: its options, where it works, what it keeps of each parameter.

Owns the contract and the registry. Refuses to own the engine (zero/) and the arithmetic (one file
for each kind). Invariant: all that an optimizer keeps is plain tensors by parameter name and one
count of updates, whose shapes follow from the parameter alone, so that they can be estimated,
saved and restored without the optimizer that made them.

A kind is registered as a class whose objects are ``Optimizer``; it is called with the kind's
options and those of the trainer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from rlpost.registry import Registry

optimizers = Registry("optimizer")

COUNT = "step"  # of updates; torch's and bitsandbytes' name


@dataclass(kw_only=True)
class OptimizerConfig:
    """What every kind says of itself, beside options of its own."""

    kind: str
    zero_stages: ClassVar[tuple[int, ...]] = (0,)  # in which it gives what it gives on one rank
    unread: ClassVar[tuple[str, ...]] = ()  # options of the trainer that it does not read


class Place(Enum):
    """Where a parameter is in its model."""

    hidden = "hidden"  # in a layer of the decoder
    end = "end"  # an embedding, or an output head


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A trained parameter, as far as optimizers tell parameters apart.

    Example: ``Parameter(shape=(576, 576), head_dim=64)`` is a query projection of nine heads.
    """

    shape: tuple[int, ...]
    place: Place = Place.hidden
    head_dim: int | None = None  # rows of one head, of a query or key projection; else None


class Optimizer(Protocol):
    """One kind with its options."""

    name: str  # under which it is registered
    elementwise: bool
    """Whether its tensors have the shape of what it updates, so that ZeRO may cut both."""

    def options(self, parameter: Parameter) -> dict[str, Any]:
        """Return what the parameter's group must say; parameters with equal answers share one."""

    def state(self, tensor: Tensor, group: Mapping[str, Any], *, step: int) -> dict[str, Any]:
        """Return what is kept of ``tensor``, all zeros, and ``COUNT`` at ``step`` updates.

        Args:
            tensor: what is updated: a parameter, or a flat part of many; perhaps without data.
            group: ``options`` of the parameter are in it.
            step: updates so far.
        """

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer of torch's groups, which hold ``options``, at rate 0."""


def kept(optimizer: Optimizer, tensor: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors that an optimizer keeps of ``tensor``, by name."""
    found = optimizer.state(tensor, group, step=0)
    return {name: value for name, value in found.items() if name != COUNT}


def state_bytes(optimizer: Optimizer, parameters: list[Parameter]) -> int:
    """Return the size of what an optimizer keeps of whole parameters."""
    return sum(
        tensor.nbytes
        for parameter in parameters
        for tensor in kept(
            optimizer, torch.empty(parameter.shape, device="meta"), optimizer.options(parameter)
        ).values()
    )
