"""A model without its weights, for ranks that hold a part of each.

Owns where each weight lies in the model's files, and the reading of those that have another form
there. Refuses to own how such a model is built (build.py), the parts and who holds them
(zero/deepspeed_parts.py). Invariants: parameters take no memory, and buffers are those of a loaded
model; only a weight that has one form in file and module is read in parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.directory.weight_files import StoredTensor
from rlpost.models.naming import Piece, pieces_of
from rlpost.training.model.heads import Shell
from rlpost.training.model.packed_model import PackedModel


@dataclass(frozen=True, kw_only=True)
class ChangedWeights:
    """Weights that have another form in the files, such as the fused experts of a layer.

    A part of a file's tensor is no part of theirs, so they are read whole: at most one decoder
    layer at a time (``Piece``).
    """

    piece: Piece
    tensors: Mapping[str, StoredTensor]  # by the names of the piece's targets
    names: Mapping[str, str]  # of the parameters, by the piece's sources
    model: Any  # the exported model without weights, which knows the change

    def read(self, *, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the weights by the names of the parameters."""
        stored = {name: tensor.read().to(dtype) for name, tensor in self.tensors.items()}
        found = self.piece.back(self.model, stored)
        return {name: found[source].contiguous() for source, name in self.names.items()}


@dataclass(frozen=True, kw_only=True)
class HollowModel:
    """A module on the meta device, but for its buffers and for a head that no file holds."""

    module: PackedModel
    stored: Mapping[str, StoredTensor]  # by the parameter's name
    changed: Mapping[str, ChangedWeights]  # the same; several parameters may share one


def find_weights(
    module: PackedModel, directory: ModelDirectory, shell: Shell
) -> HollowModel | None:
    """Say where the parameters of a hollow module lie; None: it has to be loaded as a whole.

    That is where the files have names that only transformers' own loading understands. Buffers
    that are stored are read.

    Args:
        module: hollow.
        directory: its files.
        shell: says what they call its parameters.
    """
    whole = directory.shell()
    pieces = pieces_of(whole, field=directory.field)
    ours = {
        shell.name(name): name
        for name, parameter in module.named_parameters()
        if parameter.device.type == "meta"
    }
    stored, changed = {}, {}
    for piece in pieces:
        names = {source: ours.pop(source) for source in piece.sources if source in ours}
        if not names:
            continue
        found = {name: directory.tensors.get(name) for name, _, _ in piece.targets}
        tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
        if any(name not in tensors or tensors[name].shape != s for name, _, s in piece.targets):
            return None
        if piece.is_unchanged:
            stored |= {name: tensors[source] for source, name in names.items()}
        else:
            weights = ChangedWeights(piece=piece, tensors=tensors, names=names, model=whole)
            changed |= dict.fromkeys(names.values(), weights)
    if ours:
        return None
    places = module.state_dict().keys()
    for name, buffer in module.named_buffers():
        read = directory.tensors.get(shell.name(name))
        if name in places and read is not None:
            buffer.copy_(read.read())
    # What from_pretrained leaves on a model, and exports and pushes read.
    module.model._weight_conversions = getattr(whole, "_weight_conversions", None)
    return HollowModel(module=module, stored=stored, changed=changed)
