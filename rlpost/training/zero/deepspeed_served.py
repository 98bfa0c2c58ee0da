"""What generators get of a trained module, in one of three forms.

Owns the choice between whole weights, weights with an adapter merged in, and an adapter alone as
plain LoRA. Refuses to own the gathering (deepspeed_weights.py, deepspeed_adapter.py) and transport
(weights/). Invariant: on the base that generators hold, what is yielded computes what the module
computes, but for rounding.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlpost.models.naming import Piece, Shapes, pieces_of
from rlpost.training.adapters.config import Served
from rlpost.training.adapters.export import filed, peft_fields
from rlpost.training.adapters.plain_lora import is_plain, to_lora
from rlpost.training.adapters.saved import SavedAdapter
from rlpost.training.model.loading import TrainedModel
from rlpost.training.zero.deepspeed_adapter import (
    MergeError,
    adapter_shapes,
    input_widths,
    iter_adapter,
    iter_merged,
)
from rlpost.training.zero.deepspeed_weights import iter_checkpoint
from rlpost.weights.publisher import ServedWeights


def served_weights(module: Any, model: TrainedModel, *, dtype: torch.dtype) -> ServedWeights:
    """Return what generators get of ``module``.

    Args:
        module: the ``PackedModel``.
        model: what it was loaded from.
        dtype: of its weights.
    """
    if module.adapter is None:
        return WholeWeights(module)
    if module.adapter.plan.served is Served.adapter:
        return AdapterAlone(module)
    return MergedWeights(module, model, dtype=dtype)


class WholeWeights:
    """Every weight, under the names of a checkpoint."""

    adapter = None
    merge_error = None

    def __init__(self, module: Any) -> None:
        self._module = module

    @cached_property
    def _pieces(self) -> list[Piece]:
        return pieces_of(self._module.model)

    def shapes(self) -> Shapes:
        return [target for piece in self._pieces for target in piece.targets]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        return iter_checkpoint(self._module.model, self._pieces)


class MergedWeights:
    """Every weight of the base, the adapter added to those that it changes."""

    adapter = None

    def __init__(self, module: Any, model: TrainedModel, *, dtype: torch.dtype) -> None:
        self._module, self._model, self._dtype = module, model, dtype
        self._error = MergeError()

    @property
    def merge_error(self) -> float | None:
        return self._error.share

    @cached_property
    def _shell(self) -> Any:
        """The model as it is without an adapter and without weights."""
        return self._model.head.shell(Path(self._model.path), dtype=self._dtype).model

    @cached_property
    def _pieces(self) -> list[Piece]:
        return pieces_of(self._shell)

    def shapes(self) -> Shapes:
        return [target for piece in self._pieces for target in piece.targets]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        self._error = MergeError()
        return iter_merged(self._module, self._pieces, self._shell, error=self._error)


class AdapterAlone:
    """The plain LoRA that the adapter equals, by peft's names: itself, where it is one.

    One that is converted is whole in memory, as the payload is.
    """

    merge_error = None

    def __init__(self, module: Any) -> None:
        self._module = module

    @cached_property
    def _without_values(self) -> SavedAdapter:
        empty = {
            name: torch.empty(shape, dtype=dtype, device="meta")
            for name, dtype, shape in adapter_shapes(self._module)
        }
        return self._converted(empty)

    def _converted(self, tensors: Mapping[str, Tensor]) -> SavedAdapter:
        live = self._module.adapter
        return to_lora(filed(live, tensors), inputs=input_widths(self._module))

    @property
    def adapter(self) -> Mapping[str, Any]:
        return self._without_values.config

    def shapes(self) -> Shapes:
        tensors = self._without_values.tensors
        return [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        live = self._module.adapter
        if live.companion is None and is_plain(peft_fields(live)):
            return iter_adapter(self._module)
        return self._iter_converted()

    def _iter_converted(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._converted(
            {name: tensor.clone() for name, tensor in iter_adapter(self._module)}
        ).tensors.items()
