"""The kinds of adapters: from a name to its options and to what it does beyond peft's layers.

Owns the registry and what a kind may say. Refuses to own the kinds (one file each) and the
application to a model (adapt.py). Invariant: a kind is one function, of its config, and a config
dataclass; nothing else in the tree asks which kind it is.

Example::

    @adapters.register("lora", LoRAConfig)
    def lora(cfg: LoRAConfig) -> Method:
        return Method(peft=lambda setting: lora_layers(cfg, setting))
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlpost.registry import Registry
from rlpost.training.adapters.base_weights import BaseWeights, HeldWeights

adapters = Registry("adapter")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a kind's layers depend on beside its own options."""

    task_type: str  # peft's name of what the model is for
    total_steps: int  # optimizer updates of the whole run
    shapes_only: bool = False  # the model has no weights, so nothing may be computed from them
    weights: BaseWeights = field(default_factory=HeldWeights)  # of the base


class Companion(Protocol):
    """What a kind does while the adapter is trained, with state of its own."""

    def extra_loss(self) -> Any:
        """Return what is added to the loss of a step once, on every rank alike; None: nothing."""

    def after_step(self, step: int, *, applied: bool) -> Mapping[str, Any]:
        """Act on the adapter between an update (1-based) and the next forward pass.

        An update is not ``applied`` where the gradient was not finite.

        Returns the factors, by name of a parameter of the model, that its masters are multiplied
        by: what is changed in the weights alone comes back with the next update.
        """

    def metrics(self) -> Mapping[str, float]:
        """Return what is worth watching after an update."""

    def filed(self, own: Any) -> Any:
        """Return the ``SavedAdapter`` that files hold, of the one that the live tensors make up."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return tensors by name, the same on every rank."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """What a kind is made of.

    Attributes:
        peft: returns peft's configuration of the layers.
        prepare: changes the base before the layers are put in; None: it stays.
        rate_factors: returns, for the names of trainable parameters, by what each one's learning
            rate is multiplied; None: by 1.
        companion: made of the module that has the layers; None: the layers are all there is.
    """

    peft: Callable[[Setting], Any]
    prepare: Callable[[Any], None] | None = None
    rate_factors: Callable[[list[str]], Mapping[str, float]] | None = None
    companion: Callable[[Any, Setting], Companion] | None = None


def method_of(cfg: Any) -> Method:
    """Return what the kind that ``cfg`` configures does."""
    method: Method = adapters.get(cfg.kind).target(cfg)
    return method
