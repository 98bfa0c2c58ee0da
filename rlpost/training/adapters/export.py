"""The files of a trained adapter, as peft and inference engines read them.

Owns ``adapter_config.json``, ``adapter_model.safetensors`` and the tokenizer beside them. Refuses
to own the gathering of tensors (training/zero/) and the card (models/card.py). Invariant: plain
peft loads the directory on the base that it names, without an option.
"""

import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from torch import Tensor

from rlpost.training.adapters.adapt import LiveAdapter
from rlpost.training.adapters.directory import BASE, CONFIG, FOUR_BIT, WEIGHTS
from rlpost.training.adapters.saved import SavedAdapter
from rlpost.umask import follow_umask


def peft_fields(live: LiveAdapter) -> dict[str, Any]:
    """Return what ``adapter_config.json`` says of the adapter, as plain data."""
    fields = {name: _plain(value) for name, value in live.peft.to_dict().items()}
    head = live.names.get("score.", "").removesuffix(".")
    if head:
        fields["modules_to_save"] = [*(fields.get("modules_to_save") or []), head]
    if "save_projection" in fields:  # VeRA's, which the tensors hold
        fields["save_projection"] = True
    base = {"base_model_name_or_path": live.plan.base_name, "inference_mode": True}
    return {**fields, **base}


def filed(live: LiveAdapter, tensors: Mapping[str, Tensor]) -> SavedAdapter:
    """Return the adapter for the original base that the live tensors, by their names, make up."""
    own = SavedAdapter(config=peft_fields(live), tensors=tensors)
    return own if live.companion is None else live.companion.filed(own)


def write_adapter(
    directory: Path, tensors: Mapping[str, Tensor], live: LiveAdapter, *, tokenizer_path: Path
) -> None:
    """Write an adapter directory.

    Args:
        directory: the target; created if it is missing.
        tensors: in host memory, by their names in the file.
        live: whose they are.
        tokenizer_path: the directory whose tokenizer is written.
    """
    write_saved(
        directory,
        filed(live, tensors),
        base=live.plan.base,
        four_bit=getattr(live.plan.config, "four_bit", False),
        tokenizer_path=tokenizer_path,
    )


def write_saved(
    directory: Path, adapter: SavedAdapter, *, base: str, four_bit: bool, tokenizer_path: Path
) -> None:
    """Write an adapter directory.

    Args:
        directory: the target; created if it is missing.
        adapter: in host memory.
        base: fingerprint of the weights that it belongs to.
        four_bit: whether it learned on those in 4 bits.
        tokenizer_path: the directory whose tokenizer is written.
    """
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    directory.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", BASE: base}
    if four_bit:
        metadata[FOUR_BIT] = "nf4"
    save_file(dict(adapter.tensors), directory / WEIGHTS, metadata=metadata)
    text = json.dumps(dict(adapter.config), indent=2, sort_keys=True) + "\n"
    (directory / CONFIG).write_text(text, encoding="utf-8")
    AutoTokenizer.from_pretrained(tokenizer_path).save_pretrained(directory)
    follow_umask(directory)


def _plain(value: Any) -> Any:
    match value:
        case Enum():
            return value.value
        case set() | frozenset():
            return sorted(value)
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {str(name): _plain(each) for name, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
    return value
