"""The sizes of a model that decide its memory and compute, from config and headers alone.

Owns the reading; loads no weights.
"""

from dataclasses import dataclass

from rlpost.models.locate import parameter_count


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Example: SmolLM2-135M: 134,515,008 parameters, 30 layers of width 576."""

    parameters: int
    layers: int
    width: int
    feed_forward: int  # width of the inner layer
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int


def model_shape(model_path: str) -> ModelShape:
    """Read ``config.json`` and the headers of the weights in ``model_path``."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_path).get_text_config()
    heads = config.num_attention_heads
    return ModelShape(
        parameters=parameter_count(model_path),
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        feed_forward=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
    )
