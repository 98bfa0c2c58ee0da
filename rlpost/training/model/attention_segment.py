"""Attention of one segment: queries that are the last tokens of their keys.

Owns how scores become weights (``Scoring``): the scale, a sliding window and a soft cap. Refuses to
own which segments there are (attention.py). Invariants: the numbers are those of transformers'
eager attention; a window costs time and memory in proportion to the tokens, not to their square;
of capped scores one tile alone exists at a time, in the backward pass too.

Legend: H heads, K key-value heads, G query heads of each of those, Q queries, L keys, D head width.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

SHORTEST_TILE = 256  # queries, below which a call costs more than it computes
TILE_SCORES = 2**26  # that exist at once where they are capped: 256 MiB in float32


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What a layer makes of the products of queries and keys.

    Example: ``Scoring(scaling=0.0625, window=4096, softcap=50.0)`` is a layer of Gemma 2.
    """

    scaling: float | None = None  # None: one over the square root of the head's width
    window: int | None = None  # tokens that a token sees, itself included; None: all before it
    softcap: float | None = None  # c: scores become c * tanh(scores / c)

    def limits(self, num_keys: int) -> bool:
        """Whether the window hides any of so many keys from the last query."""
        return self.window is not None and self.window < num_keys


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Masks by shape, each made when it is first asked for: the one flash call needs none."""

    device: torch.device
    made: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)

    def of(self, num_queries: int, num_keys: int, window: int | None = None) -> Tensor:
        """Return what each query sees, bool, (Q, L); the last query is the last key's token."""
        shape = (num_queries, num_keys, window)
        if shape not in self.made:
            self.made[shape] = visible(num_queries, num_keys, window, device=self.device)
        return self.made[shape]


def visible(num_queries: int, num_keys: int, window: int | None, *, device: torch.device) -> Tensor:
    """Return what ``Masks.of`` keeps."""
    own = num_keys - num_queries  # the first query's own key
    seen_QK = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(own)
    return seen_QK if window is None else seen_QK.triu(own - window + 1)


def attend_segment(
    query_1HQD: Tensor, key_1KLD: Tensor, value_1KLD: Tensor, *, masks: Masks, scoring: Scoring
) -> Tensor:
    """Attend causally from the last Q of L tokens; returns (1, H, Q, D)."""
    num_queries, num_keys = query_1HQD.shape[2], key_1KLD.shape[2]
    if scoring.softcap is None and not scoring.limits(num_keys):
        mask_QL = None if num_queries == num_keys else masks.of(num_queries, num_keys)
        return _attend(query_1HQD, key_1KLD, value_1KLD, mask_QL, scoring.scaling)
    window = scoring.window if scoring.limits(num_keys) else None
    end = num_keys - num_queries
    outputs = []
    for query in query_1HQD.split(_tile(query_1HQD, num_keys, scoring), dim=2):
        start, end = end, end + query.shape[2]
        first = 0 if window is None else max(0, start - window + 1)
        tile = (query, key_1KLD[:, :, first:end], value_1KLD[:, :, first:end])
        if scoring.softcap is None:
            mask_QL = masks.of(end - start, end - first, window)
            outputs.append(_attend(*tile, mask_QL, scoring.scaling))
        elif torch.is_grad_enabled():
            outputs.append(
                checkpoint(
                    _attend_capped, *tile, scoring, use_reentrant=False, preserve_rng_state=False
                )
            )
        else:
            outputs.append(_attend_capped(*tile, scoring))
    return torch.cat(outputs, dim=2)


def _tile(query_1HQD: Tensor, num_keys: int, scoring: Scoring) -> int:
    """Return how many queries attend in one call."""
    tile = query_1HQD.shape[2]
    if scoring.window is not None:  # each call reads the window's keys before its first query
        tile = max(SHORTEST_TILE, scoring.window)
    if scoring.softcap is not None:
        keys = num_keys if scoring.window is None else min(num_keys, tile + scoring.window)
        tile = max(1, min(tile, TILE_SCORES // (query_1HQD.shape[1] * keys)))
    return tile


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask_QL: Tensor | None, scaling: float | None
) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and mask_QL is not None and query.is_cuda:
        # CUDA's masked kernels want one key-value head per query head; else it falls back
        # to the one that materialises the scores.
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        groups = 1
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask_QL,
        is_causal=mask_QL is None,
        scale=scaling,
        enable_gqa=groups > 1,
    )


def _attend_capped(
    query_1HQD: Tensor, key_1KLD: Tensor, value_1KLD: Tensor, scoring: Scoring
) -> Tensor:
    """Write the scores out: no kernel of torch caps them."""
    assert scoring.softcap is not None
    _, heads, num_queries, width = query_1HQD.shape
    kv_heads, num_keys = key_1KLD.shape[1:3]
    query_1KGQD = query_1HQD.view(1, kv_heads, heads // kv_heads, num_queries, width)
    key_1K1DL, value_1K1LD = key_1KLD[:, :, None].transpose(-1, -2), value_1KLD[:, :, None]
    scaling = width**-0.5 if scoring.scaling is None else scoring.scaling
    scores_1KGQL = query_1KGQD @ key_1K1DL * scaling
    scores_1KGQL = soft_capped(scores_1KGQL, scoring.softcap)
    hidden_QL = ~visible(num_queries, num_keys, scoring.window, device=query_1HQD.device)
    weights_1KGQL = scores_1KGQL.masked_fill(hidden_QL, -torch.inf).softmax(-1, dtype=torch.float32)
    output_1KGQD = weights_1KGQL.to(query_1HQD.dtype) @ value_1K1LD
    return output_1KGQD.reshape(1, heads, num_queries, -1)


def soft_capped(values: Tensor, cap: float) -> Tensor:
    """Return values within plus and minus ``cap``, those near 0 almost as they are."""
    return cap * torch.tanh(values / cap)
