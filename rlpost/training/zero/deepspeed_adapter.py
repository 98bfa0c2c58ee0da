"""An adapter's tensors out of a sharded engine, alone or added to the weights of its base.

Owns the gathering. Refuses to own names, files (training/adapters/) and transport. Invariant: the
base has the same bits afterwards, at any ZeRO stage.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlpost.models.export import write_model
from rlpost.models.naming import Piece, Shapes
from rlpost.training.adapters.export import write_adapter
from rlpost.training.adapters.four_bit import is_packed, unpacked
from rlpost.training.model.loading import TrainedModel
from rlpost.training.zero.deepspeed_weights import buckets, gathered, size_bytes


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


def iter_merged(module: Any, pieces: Sequence[Piece], shell: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a checkpoint of the base with the adapter added; collective at stage 3.

    Args:
        module: the ``PackedModel`` with the adapter.
        pieces: of the base without it.
        shell: the base without it and without weights.
    """
    named, layers = _without_adapter(module)
    for piece in pieces:
        found = {name: layers.get(name.rpartition(".")[0]) for name in piece.sources}
        needed = [named[name] for name in piece.sources]
        needed += [p for layer in found.values() if layer is not None for p in layer.parameters()]
        with gathered(needed):
            tensors = {
                name: _with_adapter(named[name], layer, name) for name, layer in found.items()
            }
            for name, tensor in piece.of(shell, tensors):
                yield name, tensor.contiguous()


def _without_adapter(module: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the base's tensors, and the layers that have the adapter, by the base's own names."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    model, prefix = module.model, module.adapter.tuner.prefix
    named = {
        name.replace(".base_layer.", ".").replace(".modules_to_save.default.", "."): tensor
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if prefix not in name and ".original_module." not in name
    }
    return named, {n: m for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)}


@torch.no_grad()
def _with_adapter(tensor: Tensor, layer: Any, name: str) -> Tensor:
    """Return the weight of a layer with the adapter added; any other tensor as it is."""
    if is_packed(tensor):
        return unpacked(tensor, layer)
    if layer is None or not name.endswith(".weight"):
        return tensor.detach()
    weight: nn.Parameter = layer.get_base_layer().weight
    live = weight.data
    kept = live.clone()
    try:
        layer.merge()
        merged = weight.data.clone()
    finally:
        layer.merged_adapters.clear()
        live.copy_(kept)
        weight.data = live
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
    named, _ = _without_adapter(module)
    pieces = [
        Piece(sources=(name,), targets=((name, dtype, ()),))
        for name in named
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
