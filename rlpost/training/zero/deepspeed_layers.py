"""ZeRO-3 by whole decoder layers.

Owns in which units stage 3 gathers weights and gives them back. Refuses to own how gradients are
reduced, which stays parameter by parameter. Invariant: what is computed stays, but for the order in
which autograd adds the gradients of a value that several modules read.

DeepSpeed fetches and releases the weights of each module of a layer, a dozen times a layer in each
direction. On the host that took three times as long as the rest of a small micro-batch, and it is a
dozen small gathers where one would do. A layer that is marked as a leaf is fetched at once.

DeepSpeed reads the mark when it is initialized, too, and then reduces the gradients of a marked
module when those of its inputs are there. If the inputs need none, as in the first layer under an
adapter, that is before there are any, and it would take zeros. So layers are marked afterwards, and
the hooks that fetch and release are made again.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

# What two layers may have, of the thousand million values that DeepSpeed lets be whole at once: one
# in use and the next on its way. Larger layers, of many experts, stay divided into modules.
MAX_LAYER = 500_000_000


def decoder_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers of a transformers model that may be gathered at once."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [each for each in module.modules() if isinstance(each, GradientCheckpointingLayer)]
    return [each for each in layers if 0 < num_values(each.parameters()) <= MAX_LAYER]


def largest_layer(module: nn.Module) -> int:
    """Return the values of the largest layer that is gathered at once."""
    return max((num_values(layer.parameters()) for layer in decoder_layers(module)), default=0)


def num_values(weights: Iterable[Tensor]) -> int:
    """Return how many values weights have, whether or not they are divided."""
    return sum(getattr(each, "ds_numel", each.numel()) for each in weights)


def gather_by_layer(engine: Any) -> None:
    """Have an engine at stage 3 gather each decoder layer at once; no other engine changes."""
    if engine.zero_optimization_stage() < 3:
        return
    from deepspeed.utils.z3_leaf_module import set_z3_leaf_module

    # Without an optimizer, of a frozen model, what divides the weights stands in its place.
    offload = getattr(engine.optimizer, "parameter_offload", engine.optimizer)
    offload._remove_module_hooks()
    offload.forward_hooks.clear()
    offload.backward_hooks.clear()
    head = engine.module.model.get_output_embeddings()
    # An adapter's head has modules of its own, which would be gathered once a chunk; see
    # ``through_head`` for why that may not be.
    for each in (*decoder_layers(engine.module), *([] if head is None else [head])):
        set_z3_leaf_module(each, True)
    offload.setup_zero_stage3_hooks()
