"""Where PiSSA starts: the principal part of each weight moves from the base into the adapter.

Owns the start, and the adapter in the form that fits the original base. Invariant: the model's
function does not change by the move but for the rounding of the base's weights; what is saved adds
to the original base what was learned, and twice the rank is the price.

The signs of singular vectors are free, but the product that is moved is not, so a run that goes on
elsewhere has the same base but for rounding.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlpost.training.adapters.base_weights import BaseWeights
from rlpost.training.adapters.plain_lora import difference
from rlpost.training.adapters.saved import SavedAdapter

_NAME = "default"  # peft's name of the adapter


class PrincipalStart:
    """A ``Companion`` that moves the principal parts when it is made, and nothing afterwards."""

    def __init__(self, model: Any, weights: BaseWeights) -> None:
        from peft.tuners.lora import LoraLayer

        self._start: dict[str, Tensor] = {}  # by the end of the tensor's name in the file
        for name, layer in model.named_modules():
            if isinstance(layer, LoraLayer):
                with weights.whole([layer.get_base_layer().weight]):
                    self._start |= _move(name, layer)

    def filed(self, own: SavedAdapter) -> SavedAdapter:
        """Return what was learned as plain LoRA on the original base."""
        start = {
            name: next(t for end, t in self._start.items() if name.endswith(f".{end}")).to(tensor)
            for name, tensor in own.tensors.items()
        }
        return difference(own, replace(own, tensors=start))

    def extra_loss(self) -> None:
        """Return nothing: the loss is the objective's."""

    def after_step(self, step: int, *, applied: bool) -> Mapping[str, Tensor]:
        """Leave everything as it is."""
        return {}

    def metrics(self) -> Mapping[str, float]:
        return {}

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return nothing: the start follows from the base."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        assert not state, f"PiSSA keeps no state, got {sorted(state)[:2]}"


@torch.no_grad()
def _move(name: str, layer: Any) -> dict[str, Tensor]:
    """Move the principal part of a layer's weight; returns the adapter's tensors by name."""
    a, b = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
    weight, scale = layer.get_base_layer().weight, layer.scaling[_NAME]
    left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
    roots = (values[: len(a)] / scale).sqrt()
    a.copy_(roots[:, None] * right[: len(a)])
    b.copy_(left[:, : len(a)] * roots)
    weight.copy_(weight.float() - scale * (b.float() @ a.float()))
    return {f"{name}.lora_A.weight": a.clone(), f"{name}.lora_B.weight": b.clone()}
