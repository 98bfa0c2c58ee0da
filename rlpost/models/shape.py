"""The sizes of a model that decide its memory and compute, from config and headers alone.

Owns the reading; loads no weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlpost.models.locate import parameter_count

# What families call the same size, in their configs.
_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
_EXPERTS_PER_TOKEN = (
    "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k",
    "top_k_experts",
)  # fmt: skip
_SHARED_EXPERTS = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")


@dataclass(frozen=True, kw_only=True)
class Experts:
    """The routed experts of a mixture of experts. Example: Qwen3-30B-A3B: 8 of 128, 768 wide."""

    number: int  # in a layer
    per_token: int  # that one token is sent to
    feed_forward: int  # width of the inner layer of one
    layers: int  # that have them


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Example: SmolLM2-135M: 134,515,008 parameters, 30 layers of width 576."""

    parameters: int
    layers: int
    width: int
    feed_forward: int  # width of the inner layer that one token passes
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = False  # one matrix is embedding and head
    experts: Experts | None = None
    latent: int | None = None  # values that attention keeps of a token instead of keys and values

    @property
    def active_parameters(self) -> int:
        """Those that one token is multiplied with or looks up: all, but for the other experts."""
        if self.experts is None:
            return self.parameters
        others = self.experts.number - self.experts.per_token
        one = 3 * self.width * self.experts.feed_forward
        return self.parameters - self.experts.layers * others * one

    @property
    def kept_values(self) -> int:
        """Values of one token in the key-value cache, over all layers."""
        return self.layers * (self.latent or 2 * self.kv_heads * self.head_dim)


def model_shape(model_path: str) -> ModelShape:
    """Read ``config.json`` and the headers of the weights in ``model_path``."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_path).get_text_config()
    return shape_of(config, parameters=parameter_count(model_path))


def shape_of(config: Any, *, parameters: int) -> ModelShape:
    """Return the shape that a text config of transformers describes."""
    heads = config.num_attention_heads
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    experts = _experts(config, inner=inner, parameters=parameters)
    if experts is not None:
        shared = _first(config, _SHARED_EXPERTS) or 0
        inner = (experts.per_token + shared) * experts.feed_forward
    rank = getattr(config, "kv_lora_rank", None)
    return ModelShape(
        parameters=parameters,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        feed_forward=inner,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
        experts=experts,
        latent=None if rank is None else rank + config.qk_rope_head_dim,
    )


def _experts(config: Any, *, inner: int, parameters: int) -> Experts | None:
    """Return the routed experts of a config; None: every layer is dense."""
    number, chosen = _first(config, _EXPERTS), _first(config, _EXPERTS_PER_TOKEN)
    if not number or not chosen:
        return None
    width = _first(config, ("moe_intermediate_size",)) or inner
    # Whatever a family calls the layers that are dense, there are no more experts than weights.
    most = parameters // (number * 3 * config.hidden_size * width)
    return Experts(
        number=number,
        per_token=chosen,
        feed_forward=width,
        layers=min(most, _sparse_layers(config)),
    )


def _sparse_layers(config: Any) -> int:
    """Return how many layers have routed experts, by what families say of it."""
    listed = getattr(config, "moe_layers", None)  # Llama 4
    if isinstance(listed, list):
        return len(listed)
    dense = _first(config, ("first_k_dense_replace", "moe_layer_start_index")) or 0
    step = getattr(config, "decoder_sparse_step", None) or 1  # Qwen: every so many layers
    others = set(getattr(config, "mlp_only_layers", None) or ())
    layers = range(dense, config.num_hidden_layers)
    return sum((index + 1) % step == 0 and index not in others for index in layers)


def _first(config: Any, names: Sequence[str]) -> int | None:
    """Return the first of these sizes that a config has; of a list by layers, the largest."""
    for name in names:
        size = getattr(config, name, None)
        if size:
            return int(max(size) if isinstance(size, list | tuple) else size)
    return None
