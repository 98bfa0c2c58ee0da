"""Into how many parts vLLM can divide a model.

Owns the rule, which an engine would find broken only after its processes came up.
"""

from rlpost.errors import UserError
from rlpost.models.shape import ModelShape

VOCABULARY_PADDING = 64  # vLLM pads the embedding to a multiple of it before it divides


def require_divisible(parts: int, shape: ModelShape) -> None:
    """Check ``generator.tensor_parallel_size`` against the model.

    Raises:
        UserError: something of the model cannot be divided into so many parts.
    """
    sizes = _divided(shape)
    for what, size in sizes.items():
        if size % parts:
            raise UserError(f"{_refusal(what, size, parts)}; use {_ways_out(shape)}")
    if not _shares_heads(shape.kv_heads, parts):
        refusal = _refusal("key-value heads", shape.kv_heads, parts)
        raise UserError(f"{refusal}, nor is it a multiple of them; use {_ways_out(shape)}")


def _divided(shape: ModelShape) -> dict[str, int]:
    padded = -(-shape.vocabulary // VOCABULARY_PADDING) * VOCABULARY_PADDING
    inner = (
        {"inner values of a feed-forward layer": shape.feed_forward}
        if shape.experts is None
        else {"inner values of an expert": shape.experts.feed_forward}  # each is divided by itself
    )
    return {
        "attention heads": shape.heads,
        **inner,
        f"rows of the embedding, padded to a multiple of {VOCABULARY_PADDING}": padded,
    }


def _shares_heads(kv_heads: int, parts: int) -> bool:
    """Whether each part gets equally many key-value heads, or copies of one."""
    return parts % kv_heads == 0 if parts >= kv_heads else kv_heads % parts == 0


def _refusal(what: str, size: int, parts: int) -> str:
    return (
        f"generator.tensor_parallel_size={parts} does not divide the model's {size} {what} into "
        "equal parts"
    )


def _ways_out(shape: ModelShape) -> str:
    possible = [
        parts
        for parts in range(1, shape.heads + 1)
        if not any(size % parts for size in _divided(shape).values())
        and _shares_heads(shape.kv_heads, parts)
    ]
    *some, last = map(str, possible)
    return f"{', '.join(some)} or {last}" if some else last
