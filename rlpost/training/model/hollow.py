"""A model without its weights, for ranks that hold a part of each.

Owns where each weight lies in the model's files. Refuses to own how such a model is built
(build.py), the parts and who holds them (zero/deepspeed_parts.py). Invariants: parameters take no
memory, and buffers are those of a loaded model; a weight whose form changes between file and module
has no place here, so that a part of the one is the same part of the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.directory.weight_files import StoredTensor
from rlpost.models.naming import pieces_of
from rlpost.training.model.heads import Shell
from rlpost.training.model.packed_model import PackedModel


@dataclass(frozen=True, kw_only=True)
class HollowModel:
    """A module on the meta device, but for its buffers and for a head that no file holds."""

    module: PackedModel
    stored: Mapping[str, StoredTensor]  # by the parameter's name


def find_weights(
    module: PackedModel, directory: ModelDirectory, shell: Shell
) -> HollowModel | None:
    """Say where the parameters of a hollow module lie; None: it has to be loaded as a whole.

    Buffers that are stored are read.

    Args:
        module: hollow.
        directory: its files.
        shell: says what they call its parameters.
    """
    whole = directory.shell()
    if not all(piece.is_unchanged for piece in pieces_of(whole, field=directory.field)):
        return None
    stored = {}
    for name, parameter in module.named_parameters():
        if parameter.device.type != "meta":
            continue
        found = directory.tensors.get(shell.name(name))
        if found is None or found.shape != tuple(parameter.shape):
            return None
        stored[name] = found
    places = module.state_dict().keys()
    for name, buffer in module.named_buffers():
        found = directory.tensors.get(shell.name(name))
        if name in places and found is not None:
            buffer.copy_(found.read())
    # What from_pretrained leaves on a model, and exports and pushes read.
    module.model._weight_conversions = getattr(whole, "_weight_conversions", None)
    return HollowModel(module=module, stored=stored)
