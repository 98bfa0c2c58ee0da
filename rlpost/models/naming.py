"""Maps a model's parameters to the tensors of its checkpoint, piece by piece.

Owns which parameters must be converted together: when transformers loads a checkpoint it fuses
the experts of a mixture and renames parameters, and it undoes that when it saves. vLLM reads the
names and shapes of the checkpoint, so pushes and exports use them. Invariant: all pieces together
have the same names and shapes as if the whole model were saved at once; no piece holds more than
one decoder layer.

A tied ``lm_head`` is one parameter, under the embedding's name.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlpost.errors import UserError

Shapes = list[tuple[str, torch.dtype, tuple[int, ...]]]

_LAYER = re.compile(r"^.*?\.\d+\.")  # up to the number of the layer


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Tensors of the model that become tensors of the checkpoint together.

    Example: ``Piece(sources=("model.layers.0.mlp.experts.down_proj",), targets=(...))`` with
    one target for each expert.
    """

    sources: tuple[str, ...]
    targets: tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]

    def of(self, model: Any, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Turn the tensors of ``sources`` into the targets, which may be views of them."""
        if self.is_unchanged:
            yield from ((name, tensors[name]) for name in self.sources)
            return
        converted = _converted(model, {name: tensors[name] for name in self.sources})
        yield from ((name, converted[name]) for name, _, _ in self.targets)

    def back(self, model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn the tensors of ``targets`` into those of ``sources``, as loading them does.

        Args:
            model: on any device; perhaps a shell.
            tensors: by the names of the targets, in the dtype that the sources have.
        """
        if self.is_unchanged:
            return dict(tensors)
        loaded = _loaded(model, tensors)
        return {name: loaded[name] for name in self.sources}

    @property
    def is_unchanged(self) -> bool:
        return self.sources == tuple(name for name, _, _ in self.targets)


def state_shapes(model: Any) -> Shapes:
    """Return the tensors of a checkpoint of ``model``: parameters, then buffers that are saved.

    The shapes are those of whole parameters, also when ZeRO-3 holds only parts of them.
    """
    shared = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = dict(model.named_buffers())
    saved = [name for name in model.state_dict(keep_vars=True) if name not in shared]
    tensors = [*model.named_parameters(), *((name, buffers[name]) for name in saved)]
    return [
        (name, tensor.dtype, tuple(getattr(tensor, "ds_shape", tensor.shape)))
        for name, tensor in tensors
    ]


def pieces_of(model: Any, *, field: str = "model.path") -> list[Piece]:
    """Divide the state of a transformers model into pieces, in the order of ``state_shapes``.

    Args:
        model: loaded from a checkpoint, on any device, or a shell.
        field: what an error calls it.

    Raises:
        UserError: the model cannot be converted layer by layer.
    """
    state = {
        name: torch.empty(shape, dtype=dtype, device="meta")
        for name, dtype, shape in state_shapes(model)
    }
    whole = _signature(_converted(model, state))
    if whole == _signature(state):
        return [_piece([name], {name: tensor}) for name, tensor in state.items()]
    for groups in ([[name] for name in state], _layers(list(state))):
        pieces = [
            _piece(group, _converted(model, {name: state[name] for name in group}))
            for group in groups
        ]
        targets = [target for piece in pieces for target in piece.targets]
        if len(targets) == len(whole) and set(targets) == whole:
            return pieces
    raise UserError(
        f"{field}: the weights of {type(model).__name__} change their form between training and "
        "checkpoint in a way that spans layers, so they cannot be pushed to generators; use a "
        "model of another architecture"
    )


def _piece(sources: Sequence[str], targets: Mapping[str, Tensor]) -> Piece:
    return Piece(
        sources=tuple(sources),
        targets=tuple((name, t.dtype, tuple(t.shape)) for name, t in targets.items()),
    )


def _layers(names: Sequence[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        match = _LAYER.match(name)
        groups.setdefault(match.group() if match else name, []).append(name)
    return list(groups.values())


def _signature(tensors: Mapping[str, Tensor]) -> set[tuple[str, torch.dtype, tuple[int, ...]]]:
    return {(name, t.dtype, tuple(t.shape)) for name, t in tensors.items()}


def _converted(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert names and shapes as transformers' ``save_pretrained`` does."""
    from transformers.core_model_loading import revert_weight_conversion

    converted: dict[str, Tensor] = revert_weight_conversion(model, dict(tensors))
    return converted


def _loaded(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert names and shapes as transformers' ``from_pretrained`` does, whose steps these are."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    steps = get_model_conversion_mapping(model)
    renamings = [step for step in steps if isinstance(step, WeightRenaming)]
    converters = [step for step in steps if isinstance(step, WeightConverter)]
    converter_of = {pattern: step for step in converters for pattern in step.source_patterns}
    places, prefix = model.state_dict(), model.base_model_prefix
    collected: dict[str, Any] = {}
    for key in sorted(tensors, key=dot_natural_key):  # experts in the order of their numbers
        name, pattern = rename_source_key(key, renamings, converters, prefix, places)
        if name not in places and key in places:
            name, pattern = key, None
        new = WeightRenaming(key, name) if pattern is None else copy.deepcopy(converter_of[pattern])
        step = collected.setdefault(name, new)
        step.add_tensor(name, key, key if pattern is None else pattern, tensors[key])
    loaded: dict[str, Tensor] = {}
    for name, step in collected.items():
        for target, value in step.convert(name, model=model, config=model.config).items():
            loaded[target] = value[0] if isinstance(value, list) else value
    return loaded
