"""Can ranks divide the tokens of this model's micro-batches? Asked of its config alone.

Owns the rules of ``trainer.sequence_parallel_size`` that need a model. Refuses to own those between
options (settings.py) and the division itself (model/sequence_parallel.py).
"""

from typing import Any

from rlpost.errors import UserError
from rlpost.training.settings import TrainerConfig

# Rotary embeddings that depend on the largest position of a forward pass.
_OF_LENGTH = ("dynamic", "longrope")


def require_divisible(model_path: str, cfg: TrainerConfig, *, field: str) -> None:
    """Refuse a model that ``cfg.sequence_parallel_size`` ranks would compute wrongly.

    Args:
        model_path: a located model directory.
        cfg: of the ranks.
        field: where the model is configured, for errors.

    Raises:
        UserError: heads that cannot be divided, or positions that depend on the other ranks'.
    """
    size = cfg.sequence_parallel_size
    if size == 1:
        return
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_path).get_text_config()
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if not _divides(size, heads, kv_heads):
        possible = [
            str(each)
            for each in range(1, cfg.num_ranks + 1)
            if cfg.num_ranks % each == 0 and _divides(each, heads, kv_heads)
        ]
        raise UserError(
            f"trainer.sequence_parallel_size={size} must divide the {heads} attention heads of "
            f"{field}={model_path}, and divide its {kv_heads} key-value heads or be a multiple of "
            f"them; with trainer.num_ranks={cfg.num_ranks} use {' or '.join(possible)}"
        )
    for kind in sorted(_rope_types(config) & set(_OF_LENGTH)):
        raise UserError(
            f"trainer.sequence_parallel_size={size} divides positions among ranks, and the rotary "
            f"embedding of {field}={model_path} ({kind}) depends on the largest of all; set "
            "trainer.sequence_parallel_size=1, or use another model"
        )


def _divides(size: int, heads: int, kv_heads: int) -> bool:
    return heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)


def _rope_types(config: Any) -> set[str]:
    """Return the kinds of rotary embedding, which may differ between kinds of layers."""
    found = getattr(config, "rope_parameters", None) or {}
    nested = [each for each in found.values() if isinstance(each, dict)] or [found]
    return {each.get("rope_type", "default") for each in nested}
