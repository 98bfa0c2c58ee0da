"""An adapter's tensors out of a sharded engine, alone or added to the weights of its base.

Owns the gathering. Refuses to own names, files (training/adapters/) and transport. Invariant: the
base has the same bits afterwards, at any ZeRO stage.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlpost.models.export import write_model
from rlpost.models.naming import Piece, Shapes
from rlpost.training.adapters.export import peft_fields, write_adapter
from rlpost.training.adapters.four_bit import dequantized, is_packed
from rlpost.training.adapters.merged_weight import merged_weight
from rlpost.training.adapters.saved import SavedAdapter
from rlpost.training.model.loading import TrainedModel
from rlpost.training.zero.deepspeed_weights import buckets, gathered, size_bytes


class MergeError:
    """What rounding takes of an adapter's change when merged weights get their number format.

    0: nothing; 1: as much as all of it, so that generators sample from the base.
    """

    def __init__(self) -> None:
        self._lost = self._change = torch.zeros(())

    def add(self, *, exact: Tensor, merged: Tensor, base: Tensor) -> None:
        """Count one weight: what it should be (float32), what it became and what it was."""
        self._lost = self._lost.to(exact) + (merged - exact).square().sum()
        self._change = self._change.to(exact) + (exact - base).square().sum()

    @property
    def share(self) -> float | None:
        """Norm of what was lost over the norm of the change; None: there was no change."""
        change = float(self._change)
        return (float(self._lost) / change) ** 0.5 if change > 0 else None


def adapter_shapes(module: Any) -> Shapes:
    """Name, dtype and full shape of each tensor that ``iter_adapter`` yields."""
    return [
        (name, tensor.dtype, tuple(getattr(tensor, "ds_shape", tensor.shape)))
        for name, tensor in module.adapter.tensors(module).items()
    ]


def iter_adapter(module: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the adapter's whole tensors by their names in its file; collective at stage 3.

    A tensor may be the live weight: copy it before asking for the next one.
    """
    named = [((name, t), size_bytes(t)) for name, t in module.adapter.tensors(module).items()]
    for bucket in buckets(named):
        with gathered([tensor for _, tensor in bucket]):
            for name, tensor in bucket:
                yield name, tensor.detach().contiguous()


def input_widths(module: Any) -> dict[str, int]:
    """Return the inputs of each layer that has the adapter, by the layer's name in files."""
    layers = _adapted_layers(module).items()
    return {f"{_prefix(module)}{name}": layer.in_features for name, layer in layers}


def iter_merged(
    module: Any, pieces: Sequence[Piece], shell: Any, *, error: MergeError | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a checkpoint of the base with the adapter added; collective at stage 3.

    Args:
        module: the ``PackedModel`` with the adapter.
        pieces: of the base without it.
        shell: the base without it and without weights.
        error: counts what rounding takes.
    """
    named, layers, prefix = _without_adapter(module), _adapted_layers(module), _prefix(module)
    adapter = SavedAdapter(
        config=peft_fields(module.adapter), tensors=module.adapter.tensors(module)
    )
    for piece in pieces:
        found = [layers.get(name.rpartition(".")[0]) for name in piece.sources]
        needed = [named[name] for name in piece.sources]
        needed += [p for layer in found if layer is not None for p in layer.parameters()]
        with gathered(needed):
            tensors = {
                name: _with_adapter(named[name], adapter, f"{prefix}{name}", error=error)
                for name in piece.sources
            }
            for name, tensor in piece.of(shell, tensors):
                yield name, tensor.contiguous()


def _prefix(module: Any) -> str:
    """Return what the names of the module's layers begin with in files."""
    prefix: str = module.adapter.names["model."]
    return prefix


def _adapted_layers(module: Any) -> dict[str, Any]:
    """Return the layers that have the adapter, by the base's own names."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {n: m for n, m in module.model.named_modules() if isinstance(m, BaseTunerLayer)}


def _without_adapter(module: Any) -> dict[str, Tensor]:
    """Return the base's tensors by its own names."""
    model, prefix = module.model, module.adapter.tuner.prefix
    return {
        name.replace(".base_layer.", ".").replace(".modules_to_save.default.", "."): tensor
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if prefix not in name and ".original_module." not in name
    }


@torch.no_grad()
def _with_adapter(
    tensor: Tensor, adapter: SavedAdapter, place: str, *, error: MergeError | None
) -> Tensor:
    """Return the base's tensor at ``place`` (its name in files), the adapter added if it has one.

    The sum is that of float32 and is rounded once.
    """
    base = dequantized(tensor) if is_packed(tensor) else tensor.detach()
    layer, _, last = place.rpartition(".")
    if last != "weight" or layer not in adapter.modules:
        return base
    exact = merged_weight(adapter, layer, base)
    merged = exact.to(base.dtype)
    if error is not None:
        error.add(exact=exact, merged=merged, base=base)
    return merged


def save_adapter(
    module: Any, model: TrainedModel, directory: Path, *, dtype: torch.dtype, write: bool
) -> None:
    """Write an adapter directory with tokenizer; collective, the rank with ``write`` writes.

    Of an adapter whose base lies nowhere, because another one was merged into it, the whole model
    is written, the adapter added to its weights.
    """
    if module.adapter.plan.merges is not None:
        _save_merged(module, model, directory, dtype=dtype, write=write)
        return
    tensors: Mapping[str, Tensor] = {
        name: tensor.cpu().clone() for name, tensor in iter_adapter(module) if write
    }
    if write:
        write_adapter(directory, tensors, module.adapter, tokenizer_path=Path(model.tokenizer_path))


def _save_merged(
    module: Any, model: TrainedModel, directory: Path, *, dtype: torch.dtype, write: bool
) -> None:
    start = Path(model.path)
    shell = model.head.shell(start, dtype=dtype)
    places = shell.model.state_dict().keys()
    pieces = [
        Piece(sources=(name,), targets=((name, dtype, ()),))
        for name in _without_adapter(module)
        if shell.name(f"model.{name}") in places
    ]
    state = {
        shell.name(f"model.{name}"): tensor.cpu().clone()
        for name, tensor in iter_merged(module, pieces, shell.model)
        if write
    }
    if module.score is not None:
        with gathered(list(module.score.parameters())):
            state |= {
                shell.name(f"score.{name}"): parameter.detach().cpu().clone()
                for name, parameter in module.score.named_parameters()
            }
    if write:
        tokenizer = Path(model.tokenizer_path)
        write_model(shell.model, state, directory, start=start, tokenizer_path=tokenizer)
