"""What a model costs in operations and bytes, from its shape alone.

Owns the counts: as in the appendix of PaLM (arXiv 2204.02311), two operations forwards for each
weight that a token is multiplied with, and attention counted pair by pair, causal.
"""

from rlpost.models.shape import ModelShape

BYTES = 2  # of a weight or a value in bfloat16


def multiplied(shape: ModelShape) -> int:
    """Return the weights that one token is multiplied with: no lookups, only its own experts."""
    lookup = 0 if shape.tied else shape.vocabulary * shape.width
    return shape.active_parameters - lookup


def expert_weights(shape: ModelShape) -> int:
    """Return the weights of all routed experts."""
    experts = shape.experts
    if experts is None:
        return 0
    return experts.layers * experts.number * 3 * shape.width * experts.feed_forward


def chosen_weights(shape: ModelShape) -> float:
    """Return the weights of the routed experts that one token is sent to."""
    if shape.experts is None:
        return 0.0
    return expert_weights(shape) * shape.experts.per_token / shape.experts.number


def attention_flops(shape: ModelShape) -> int:
    """Return the operations of one pair of tokens, forwards, in all layers."""
    return 4 * shape.layers * shape.heads * shape.head_dim


def layer_values(shape: ModelShape) -> int:
    """Return the values that one token has in one layer: norms, attention, gated feed-forward."""
    attention = 2 * (shape.heads + shape.kv_heads) * shape.head_dim
    return 5 * shape.width + attention + 4 * shape.feed_forward


def expert_values(shape: ModelShape) -> int:
    """Return the values of one token, in all layers, that sorting by experts moves: its copies.

    Each is read and written on the way to its expert, and on the way back.
    """
    if shape.experts is None:
        return 0
    return 4 * shape.experts.layers * shape.experts.per_token * shape.width


def touched_weights(shape: ModelShape, sequences: float) -> tuple[float, float]:
    """Return the weights that a decoding step reads, outside of experts and in experts.

    Of the experts those are read that some of ``sequences`` tokens choose, each at random.
    """
    lookup = 0 if shape.tied else shape.vocabulary * shape.width
    experts = shape.experts
    if experts is None:
        return float(shape.parameters - lookup), 0.0
    held = expert_weights(shape)
    untouched = (1 - experts.per_token / experts.number) ** sequences
    return float(shape.parameters - lookup - held), held * (1 - untouched)
