"""The optimizers that are written here: one update of one tensor after the other.

Owns the walk over parameters and Adam's moments. Refuses to own what a kind does with them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from rlpost.training.optimizers.base import COUNT
from rlpost.training.settings import TrainerConfig

# (weight, float32 gradient, state, group): changes weight and state in place
Update = Callable[[Tensor, Tensor, dict[str, Any], dict[str, Any]], None]


class MakesState(Protocol):
    """The part of ``base.Optimizer`` that is needed before a first update."""

    def state(self, tensor: Tensor, group: Mapping[str, Any], *, step: int) -> dict[str, Any]:
        """Return what is kept of ``tensor``, all zeros."""


class PerTensor(torch.optim.Optimizer):
    """Counts the updates of each parameter that has a gradient and leaves them to ``update``."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        trainer: TrainerConfig,
        kind: MakesState,
        update: Update,
    ) -> None:
        defaults = {
            "lr": 0.0,
            "betas": (trainer.beta1, trainer.beta2),
            "eps": trainer.eps,
            "weight_decay": trainer.weight_decay,
        }
        super().__init__(groups, defaults)
        self._kind, self._update = kind, update

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update every parameter that has a gradient."""
        assert closure is None, "the gradient is there already"
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state.update(self._kind.state(weight, group, step=0))
                state[COUNT] += 1
                self._update(weight, weight.grad.float(), state, group)


def adam_direction(
    gradient: Tensor, state: dict[str, Any], group: Mapping[str, Any], *, step: int
) -> Tensor:
    """Take a gradient into both moments; returns m / (sqrt(v) + eps), m and v without bias.

    Args:
        gradient: of the shape of ``state["exp_avg"]``.
        state: its moments.
        group: ``betas`` and ``eps``.
        step: gradients that the moments have seen, this one included.
    """
    beta1, beta2 = group["betas"]
    state["exp_avg"].lerp_(gradient, 1 - beta1)
    state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    root = (state["exp_avg_sq"] / (1 - beta2**step)).sqrt_().add_(group["eps"])
    return (state["exp_avg"] / (1 - beta1**step)).div_(root)


def apply(weight: Tensor, direction: Tensor, group: Mapping[str, Any]) -> None:
    """Go against ``direction`` at the group's rate, after decoupled weight decay."""
    weight.mul_(1 - group["lr"] * group["weight_decay"])
    weight.add_(direction, alpha=-group["lr"])
