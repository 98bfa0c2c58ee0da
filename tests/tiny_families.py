"""Tiny random models of many architectures, each with the byte tokenizer.

Owns the settings that make a family small: two layers, 64 wide, heads of 32 because vLLM's CPU
attention refuses smaller ones. Tests and benchmarks/model_families.py build from it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlpost.cache import publish_directory
from rlpost.models.tiny import byte_tokenizer

_WIDE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
_HEADS = {"head_dim": 32}
_ALL_HEADS = {"num_key_value_heads": 2}
_TIED = {"tie_word_embeddings": True}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_OLD = {  # names of GPT-2 and its kin
    "vocab_size": 320,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 512,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_LATENT = {
    "kv_lora_rank": 32,
    "q_lora_rank": None,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "num_key_value_heads": 2,
}
_ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}

# transformers' model type -> what its config is given
FAMILIES: dict[str, Mapping[str, Any]] = {
    "llama": _WIDE | _HEADS,
    "qwen2": _WIDE | _TIED,
    "qwen3": _WIDE | _HEADS | _TIED,
    "qwen3_moe": _WIDE | _HEADS | _EXPERTS,
    "mixtral": _WIDE | _HEADS | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma": _WIDE | _HEADS | _TIED,
    "gemma2": _WIDE | _HEADS | _TIED,
    "gemma3_text": _WIDE | _HEADS | _TIED | {"sliding_window": 512},
    "phi3": _WIDE | _ALL_HEADS,
    "mistral": _WIDE | _HEADS | {"sliding_window": 512},
    "gpt2": _OLD | {"initializer_range": 0.2},
    "gpt_neox": {k: v for k, v in _WIDE.items() if k != "num_key_value_heads"},
    "olmo2": _WIDE,
    "glm": _WIDE | _HEADS,
    "smollm3": _WIDE | _TIED,
    "qwen2_moe": _WIDE | _EXPERTS | {"shared_expert_intermediate_size": 64},
    "deepseek_v2": _WIDE | _LATENT | _ROUTED,
    "granite": _WIDE | {"logits_scaling": 8.0},
    "granitemoe": _WIDE | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "glm4": _WIDE | _HEADS,
    "glm4_moe": _WIDE | _HEADS | _ROUTED,
    "olmoe": _WIDE | {"num_experts": 4, "num_experts_per_tok": 2},
    "cohere": _WIDE | _TIED,
    "stablelm": _WIDE,
    "starcoder2": _WIDE,
    "phi": _WIDE | _ALL_HEADS,
    "opt": {k: v for k, v in _WIDE.items() if k in ("vocab_size", "hidden_size", "eos_token_id")}
    | {"ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    | {"word_embed_proj_dim": 64, "max_position_embeddings": 512, "pad_token_id": 1}
    | {"bos_token_id": 0, "init_std": 0.2},
    "seed_oss": _WIDE | _HEADS,
    "exaone4": _WIDE,
    "ernie4_5": _WIDE | _HEADS,
    "apertus": _WIDE,
    "nemotron": _WIDE | _HEADS,
    "persimmon": {k: v for k, v in _WIDE.items() if k != "num_key_value_heads"},
    "falcon": _WIDE,
    "bloom": {"vocab_size": 320, "hidden_size": 64, "n_layer": 2, "n_head": 2, "eos_token_id": 2},
    "gptj": _OLD | {"rotary_dim": 16},
    "gpt_oss": _WIDE | _HEADS | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "lfm2": _WIDE,
    "mamba": {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "eos_token_id": 2},
    "qwen3_next": _WIDE | _HEADS | _EXPERTS | {"shared_expert_intermediate_size": 64},
}


def build_tiny_family(
    directory: Path | str, model_type: str, *, seed: int = 0, **changes: Any
) -> Path:
    """Write a random model of a family in Hugging Face layout and return its directory.

    Args:
        directory: where to put it; an existing complete model is kept.
        model_type: a key of ``FAMILIES``.
        seed: of the random weights.
        changes: of the config's fields.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    def write(target: Path) -> None:
        config = AutoConfig.for_model(model_type, **{**FAMILIES[model_type], **changes})
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(target)
        byte_tokenizer().save_pretrained(target)

    return publish_directory(Path(directory), write)
