"""Model directories of any size, whose weights are holes in a file."""

import json
from pathlib import Path
from typing import Any

import torch

from rlpost.models.tiny import byte_tokenizer

MISTRAL_7B: dict[str, Any] = {
    "vocab_size": 320,  # of the byte tokenizer: 7.0 instead of 7.2 billion parameters
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "sliding_window": None,
    "eos_token_id": 2,
}


def build_large_model(directory: Path, model_type: str, sizes: dict[str, Any]) -> Path:
    """Write a model in bfloat16 whose every weight is 0 and takes no place on the disk."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **sizes, dtype="bfloat16")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    directory.mkdir()
    config.save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, weight in model.state_dict().items():
        start, end = end, end + 2 * weight.numel()
        header[name] = {
            "dtype": "BF16",
            "shape": list(weight.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return directory
