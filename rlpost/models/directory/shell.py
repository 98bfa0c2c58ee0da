"""A model without its weights, made from config and headers to check that it can be loaded.

Owns the comparison of what an architecture needs with what the files hold, by transformers'
own loading code on torch's meta device. Costs no memory and about 20 ms for a small model.
Invariant: if the shell opens, the model loads completely and no parameter is initialised at
random.
"""

from pathlib import Path
from typing import Any

import torch

from rlpost.errors import UserError
from rlpost.models.directory.read_errors import reading_model
from rlpost.models.directory.weight_files import Shape, StoredTensor

# Constants that older versions of transformers saved with the weights; loaders ignore them.
CONSTANTS = ("inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", "masked_bias")


def open_shell(
    directory: Path | str,
    config: Any,
    stored: dict[str, StoredTensor],
    *,
    field: str,
    dtype: torch.dtype | None = None,
) -> Any:
    """Return the model of ``config`` on the meta device, as loading would make it.

    Args:
        directory: for messages.
        config: its ``PretrainedConfig``; the shell gets it as its own.
        stored: the headers of its weights.
        field: what an error calls the model.
        dtype: of the parameters; None: the config's.

    Raises:
        UserError: the files lack tensors, hold others, or of other shapes.
    """
    import transformers

    name = config.architectures[0]
    num_layers = getattr(config, "num_hidden_layers", None) or 0
    if num_layers > len(stored):  # checked first, because building too many layers takes long
        raise UserError(
            f"{field}: config.json in {directory} has {num_layers} layers, and the weights have "
            f"{len(stored)} tensors in all; config and weights are of two models, copy or "
            "download the whole model again"
        )
    with reading_model(f"{field}: the model in {directory} ({name}) cannot be built"):
        architecture = getattr(transformers, name)
        model, report = architecture.from_pretrained(
            None,
            config=config,
            state_dict={
                key: torch.empty(tensor.shape, dtype=dtype, device="meta")
                for key, tensor in stored.items()
            },
            dtype=dtype or config.dtype or torch.float32,
            device_map={"": "meta"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    _refuse_differences(report, directory, name, field=field)
    return model


def _refuse_differences(
    report: dict[str, Any], directory: Path | str, name: str, *, field: str
) -> None:
    whole = "copy or download the whole model again"
    if report["mismatched_keys"]:
        key, found, needed = min(report["mismatched_keys"])
        raise UserError(
            f"{field}: {key} in {directory} has the shape {_text(found)}, and {name} with this "
            f"config.json needs {_text(needed)}; config and weights are of two models, {whole}"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"{field}: the weights in {directory} lack {missing[0]}{_more(missing)}, which "
            f"{name} needs and which would start at random; {whole}"
        )
    unknown = sorted(key for key in report["unexpected_keys"] if not key.endswith(CONSTANTS))
    if unknown:
        raise UserError(
            f"{field}: the weights in {directory} hold {unknown[0]}{_more(unknown)}, for which "
            f"{name} has no place; config and weights are of two models, or something was added. "
            "Save the model again with save_pretrained()"
        )


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more tensors" if len(names) > 1 else ""


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "()"
