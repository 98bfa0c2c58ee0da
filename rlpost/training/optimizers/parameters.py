"""What optimizers need to know of a model's parameters, from its modules and its configuration.

Owns the reading of a model. Refuses to own what a kind makes of it. Names are not searched for
parts of words: an embedding is what the model says it is, a query projection is the linear layer
that its attention calls so and that has the rows which the configuration's heads have.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn

from rlpost.training.optimizers.base import Parameter, Place

_WITH_HEADS = ("q_proj", "k_proj")  # transformers' names of an attention's own layers


def parameters_of(model: Any, trained: dict[str, Any]) -> dict[str, Parameter]:
    """Describe the parameters of a model that are trained.

    Args:
        model: of transformers, with or without weights, perhaps with an adapter in its layers.
        trained: name -> parameter, of ``model`` or of a head beside it.
    """
    decoder = model.get_decoder()
    inside = {id(each) for each in decoder.parameters()}
    ends = {
        id(each)
        for module in decoder.modules()
        if isinstance(module, nn.Embedding)
        for each in module.parameters(recurse=False)
    }
    head_dims = dict(_head_dims(decoder))
    return {
        name: Parameter(
            shape=tuple(getattr(each, "ds_shape", each.shape)),  # ZeRO-3 may have divided it
            place=Place.hidden if id(each) in inside - ends else Place.end,
            head_dim=head_dims.get(id(each)),
        )
        for name, each in trained.items()
    }


def _head_dims(decoder: Any) -> Iterator[tuple[int, int]]:
    """Yield the weights of query and key projections, by id, with the rows of one head."""
    config = decoder.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    if heads is None:
        return
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    rows = {heads * head_dim, kv_heads * head_dim}
    for module in decoder.modules():
        for name in _WITH_HEADS:
            layer = getattr(module, name, None)
            if isinstance(layer, nn.Linear) and layer.out_features in rows:
                yield id(layer.weight), head_dim
