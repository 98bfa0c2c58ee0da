"""Attention over packed blocks: no padding, no leak.

Owns which token sees which (batch.py's layout) and the attention function that transformers
calls for it: one flash call for all sequences where that fits (attention_varlen.py), else one
sequence after the other (attention_segment.py). Invariant: a response sees its prompt and its own
past, or what a window leaves of both, and nothing else.
A dense block-diagonal mask would do the same and is slower than padding from 2,048 tokens on.

Hazard: the layout arrives through the model's keyword arguments. A model that drops them
would attend to everything; the function therefore refuses to run without a layout.

Legend: T packed tokens, H heads, K key-value heads, D head width, r / p tokens of a
response / prompt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rlpost.errors import UserError
from rlpost.training.model import attention_varlen
from rlpost.training.model.attention_segment import Masks, Scoring, attend_segment
from rlpost.training.model.sequence_parallel import SequenceGroup
from rlpost.training.packing.batch import Block

ATTENTION = "rlpost_packed"
# Tokens of the longest sequence up to which a CPU attends in float32: the backward pass of its
# bfloat16 kernel takes three to four times as long there, and equally long from about 256 on.
SHORT = 256


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Queries ``[start, end)`` that see ``prefix`` fully and themselves causally."""

    queries: tuple[int, int]
    prefix: tuple[int, int] | None = None

    @property
    def num_queries(self) -> int:
        return self.queries[1] - self.queries[0]

    @property
    def span(self) -> int:
        """Length of the whole sequence the last query sees."""
        prefix = self.prefix[1] - self.prefix[0] if self.prefix else 0
        return prefix + self.num_queries


@dataclass(frozen=True, kw_only=True)
class PackedLayout:
    """The segments of one micro-batch, in the order of their tokens; they tile ``[0, T)``.

    A prompt comes before the responses that see it.
    """

    segments: tuple[Segment, ...]
    masks: Masks
    group: SequenceGroup | None = None  # over which the tokens are divided; None: all are here

    @classmethod
    def of(
        cls,
        blocks: Sequence[Block],
        *,
        device: torch.device,
        group: SequenceGroup | None = None,
    ) -> "PackedLayout":
        """Lay out blocks."""
        segments = [segment for block in blocks for segment in _segments(block)]
        position = 0
        for segment in segments:
            assert segment.queries[0] == position, "blocks must tile the packed tokens"
            position = segment.queries[1]
        return cls(segments=tuple(segments), masks=Masks(device=device), group=group)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(segment.span for segment in self.segments)

    @cached_property
    def sequences(self) -> attention_varlen.Sequences:
        """The same for the one flash call."""
        pairs = [(segment.queries, segment.prefix) for segment in self.segments]
        return attention_varlen.Sequences.of(pairs, device=self.masks.device)


def _segments(block: Block) -> Iterator[Segment]:
    if len(block.responses) == 1 and block.responses[0][0] == block.prompt[1]:
        # An unshared sequence is one causal call: no mask, and the fast kernels apply.
        yield Segment(queries=(block.prompt[0], block.responses[0][1]))
        return
    yield Segment(queries=block.prompt)
    for start, end in block.responses:
        if start < end:
            yield Segment(queries=(start, end), prefix=block.prompt)


def register_packed_attention() -> None:
    """Make ``ATTENTION`` known to transformers; repeating it is harmless."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, packed_attention)


def packed_attention(
    module: torch.nn.Module,
    query_1HTD: Tensor,
    key_1KTD: Tensor,
    value_1KTD: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed_layout: PackedLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within the layout's segments; returns (1, T, H, D) and no weights.

    Of a layout whose tokens are divided, each rank gives and gets its own.

    ``dropout`` is 0 by the time it arrives: dropout.py turns it off in every model.

    Raises:
        UserError: the model has attention sinks, which this function lacks.
    """
    assert packed_layout is not None, "the model dropped packed_layout: tokens would leak"
    assert attention_mask is None and query_1HTD.shape[0] == 1 and not dropout
    _refuse_sinks(kwargs)
    scoring = Scoring(
        scaling=scaling, window=kwargs.get("sliding_window"), softcap=kwargs.get("softcap")
    )
    qkv, group = (query_1HTD, key_1KTD, value_1KTD), packed_layout.group
    if group is None:
        return _attend(*qkv, layout=packed_layout, scoring=scoring), None
    output_1ThD = _attend(*group.to_heads(*qkv), layout=packed_layout, scoring=scoring)
    return group.to_tokens(output_1ThD), None


def _attend(
    query_1HTD: Tensor,
    key_1KTD: Tensor,
    value_1KTD: Tensor,
    *,
    layout: PackedLayout,
    scoring: Scoring,
) -> Tensor:
    """Attend within the layout's segments; returns (1, T, H, D)."""
    qkv = (query_1HTD, key_1KTD, value_1KTD)
    kernel = attention_varlen.kernel_for(query_1HTD, scoring)
    if kernel is None:
        return attend_one_by_one(*qkv, layout=layout, scoring=scoring)
    return attention_varlen.attend(kernel, *qkv, sequences=layout.sequences, scoring=scoring)


def attend_one_by_one(
    query_1HTD: Tensor,
    key_1KTD: Tensor,
    value_1KTD: Tensor,
    *,
    layout: PackedLayout,
    scoring: Scoring,
) -> Tensor:
    """Attend segment by segment; returns (1, T, H, D)."""
    dtype = query_1HTD.dtype
    if not query_1HTD.is_cuda and layout.longest <= SHORT:
        query_1HTD, key_1KTD, value_1KTD = (x.float() for x in (query_1HTD, key_1KTD, value_1KTD))
    lengths = [segment.num_queries for segment in layout.segments]
    # Split once instead of slicing: the gradient of each slice would be as long as the whole.
    parts = (x.split(lengths, dim=2) for x in (query_1HTD, key_1KTD, value_1KTD))
    prompts: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    outputs = []
    for segment, query, key, value in zip(layout.segments, *parts, strict=True):
        if segment.prefix is None:
            prompts[segment.queries] = key, value
        else:
            prompt_key, prompt_value = prompts[segment.prefix]
            key = torch.cat([prompt_key, key], dim=2)
            value = torch.cat([prompt_value, value], dim=2)
        outputs.append(attend_segment(query, key, value, masks=layout.masks, scoring=scoring))
    return torch.cat(outputs, dim=2).transpose(1, 2).to(dtype).contiguous()


def _refuse_sinks(kwargs: dict[str, Any]) -> None:
    if kwargs.get("s_aux") is not None:
        raise UserError(
            "model.path: this architecture uses attention sinks (s_aux), which packed training "
            "does not implement; use a model without them"
        )
