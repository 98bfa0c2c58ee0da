"""A copy of a model with fewer layers: a smaller student where no smaller model is at hand.

Owns which layers stay. Refuses to own training, which such a copy needs before it is of use.
Invariants: the layers that stay are evenly spread, the first and the last among them, and their
values are untouched; the copy appears complete or not at all; the same model gives the same copy.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from rlpost.errors import UserError
from rlpost.merging.weights_file import PlannedTensor, write_weights
from rlpost.models.card import write_model_card
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.directory.weight_files import SINGLE
from rlpost.models.export import write_model
from rlpost.models.origin import ModelOrigin

_LAYER = re.compile(r"(.*\blayers\.)(\d+)(\..+)")


def kept_layers(total: int, layers: int) -> list[int]:
    """Return which of ``total`` layers stay. Example: ``kept_layers(6, 3) == [0, 3, 5]``"""
    if layers == 1:
        return [0]
    steps = (number * (total - 1) for number in range(layers))
    return [(2 * step + layers - 1) // (2 * (layers - 1)) for step in steps]  # rounded half up


def require_prunable(source: Path, *, layers: int, field: str) -> None:
    """Raises UserError: the model has not more than ``layers`` layers."""
    total = _depth(ModelDirectory.read(str(source), field=field))
    if not layers < total:
        raise UserError(
            f"{field} must be below the model's number of layers, {total}, got {layers}; use "
            "fewer, or start from the model itself"
        )


def prune_layers(source: Path, target: Path, *, layers: int) -> None:
    """Write the copy, unless it is there.

    Args:
        source: directory of a whole model.
        target: does not exist, or is the copy of an earlier call.
        layers: of the copy; below those of the model.

    Raises:
        UserError: the model has too few layers, or its files are not understood.
    """
    if target.exists():
        return
    field = "from.prune"
    require_prunable(source, layers=layers, field=field)
    base = ModelDirectory.read(str(source), field=field)
    kept = kept_layers(_depth(base), layers)
    scratch = target.with_name(f".{target.name}.scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    write_model(base.shell(), {}, scratch, start=base.path, tokenizer_path=base.path)
    (scratch / SINGLE).unlink(missing_ok=True)  # of no tensors
    _shorten_config(scratch / "config.json", total=_depth(base), kept=kept)
    _write_weights(base, scratch, kept)
    ModelDirectory.read(str(scratch), field=field).checkpoint_shapes()  # refuses any that lacks
    origin = ModelOrigin(
        base=str(source),
        stage="prune",
        run=target.name,
        step=0,
        run_step=0,
        how=f"with the layers {', '.join(map(str, kept))} of {_depth(base)} alone",
    )
    write_model_card(scratch, origin, location=target)
    scratch.rename(target)


def _depth(base: ModelDirectory) -> int:
    return int(base.config.get_text_config().num_hidden_layers)


def _write_weights(base: ModelDirectory, directory: Path, kept: list[int]) -> None:
    source_of: dict[str, str] = {}
    for name in base.tensors:
        layer = _LAYER.fullmatch(name)
        if layer is None:
            source_of[name] = name
        elif int(layer[2]) in kept:
            source_of[f"{layer[1]}{kept.index(int(layer[2]))}{layer[3]}"] = name

    def value_of(name: str) -> Tensor:
        source = source_of[name]
        with safe_open(base.tensors[source].file, framework="pt") as file:
            value: Tensor = file.get_tensor(source)
            return value

    planned = [
        PlannedTensor(
            name=name,
            dtype=base.tensors[source].torch_dtype,
            shape=base.tensors[source].shape,
        )
        for name, source in source_of.items()
    ]
    write_weights(directory, planned, value_of)


def _shorten_config(path: Path, *, total: int, kept: list[int]) -> None:
    """Write the number of layers, and keep of lists with an entry a layer those that stay."""
    tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for part in (tree, tree.get("text_config")):
        if not isinstance(part, dict) or part.get("num_hidden_layers") != total:
            continue
        part["num_hidden_layers"] = len(kept)
        for name, value in part.items():
            if isinstance(value, list) and len(value) == total:
                part[name] = [value[layer] for layer in kept]
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
