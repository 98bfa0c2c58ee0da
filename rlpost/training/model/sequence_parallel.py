"""The tokens of one micro-batch, divided over the ranks of a group: Ulysses, arXiv 2309.14509.

Owns the exchanges between ranks and which of them holds what. Refuses to own attention
(attention.py), the head (heads.py) and what a rank computes of its tokens. A rank holds consecutive
tokens with all heads, and within attention all tokens with some of the heads. Key-value heads that
are fewer than the ranks are repeated. The scores of all tokens end up on every rank, so that each
computes the whole loss, of which it learns through its own tokens.

Invariant: the gradients of the ranks of a group add up to that of one rank with all tokens.

Legend: T tokens, t tokens of a rank, H heads, h heads of a rank, D head width, R scored tokens, r
rows of scored tokens that each rank computes, the same number everywhere.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class OwnRows:
    """The scored tokens that one rank computes, and where those of all ranks end up.

    Every rank computes as many rows as the one that has most. Rows that only make up the number
    are of the first scored token, read at the rank's first token, and ``place_R`` names none of
    them.
    """

    row_r: np.ndarray  # int64: which scored token
    at_r: np.ndarray  # int64: where the head reads it, among the rank's tokens
    place_R: np.ndarray  # int64: of each scored token among the rows of all ranks


@dataclass(frozen=True, kw_only=True)
class SequenceGroup:
    """One rank's place among the ranks that share its micro-batches."""

    process_group: Any
    rank: int  # in the group
    size: int

    @classmethod
    def join(cls, size: int, *, timeout: datetime.timedelta) -> "SequenceGroup | None":
        """Divide all ranks into groups of neighbours; collective. None: each is alone."""
        if size == 1:
            return None
        world_size, rank = dist.get_world_size(), dist.get_rank()
        assert world_size % size == 0, (world_size, size)
        # Every rank takes part in making every group.
        groups = [
            dist.new_group(list(range(first, first + size)), timeout=timeout)
            for first in range(0, world_size, size)
        ]
        return cls(process_group=groups[rank // size], rank=rank % size, size=size)

    def tokens_each(self, num_tokens: int) -> int:
        """Return how many tokens a rank holds, the last ones of which may be padding."""
        return -(-num_tokens // self.size)

    def own_rows(self, at_R: np.ndarray, *, num_tokens: int) -> OwnRows:
        """Return the rows of this rank; made on the host, which would wait for a device.

        Args:
            at_R: where the head reads each scored token, among all tokens.
            num_tokens: of the micro-batch.
        """
        each = self.tokens_each(num_tokens)
        owner_R = at_R // each
        counts = np.bincount(owner_R, minlength=self.size)
        rows = int(counts.max())  # every rank computes as many: collectives of all must match
        order_R = np.argsort(owner_R, kind="stable")
        first = counts.cumsum() - counts
        slot_R = np.arange(len(order_R)) - first[owner_R[order_R]]
        place_R = np.empty_like(order_R)
        place_R[order_R] = owner_R[order_R] * rows + slot_R
        own_R = order_R[owner_R[order_R] == self.rank]
        spare = (0, rows - len(own_R))
        at_r = np.pad(at_R[own_R] - self.rank * each, spare)
        return OwnRows(row_r=np.pad(own_R, spare), at_r=at_r, place_R=place_R)

    def to_heads(self, *parts_1HtD: Tensor) -> list[Tensor]:
        """Exchange own tokens with all heads for all tokens with own heads, (1, h, T, D) each."""
        parts = [self._for_all_ranks(part) for part in parts_1HtD]
        sent = [part[0].reshape(self.size, -1) for part in parts]
        received = _Exchanged.apply(torch.cat(sent, dim=1), self)
        result = []
        for part, flat in zip(
            parts, received.split([each.shape[1] for each in sent], 1), strict=True
        ):
            _, heads, tokens, width = part.shape
            by_rank_PhtD = flat.reshape(self.size, heads // self.size, tokens, width)
            result.append(by_rank_PhtD.transpose(0, 1).reshape(1, -1, self.size * tokens, width))
        return result

    def to_tokens(self, output_1ThD: Tensor) -> Tensor:
        """Exchange all tokens with own heads for own tokens with all heads, (1, t, H, D)."""
        _, num_tokens, heads, width = output_1ThD.shape
        sent = output_1ThD.reshape(self.size, num_tokens // self.size, heads, width)
        by_rank_PthD = _Exchanged.apply(sent, self)
        return by_rank_PthD.transpose(0, 1).reshape(1, -1, self.size * heads, width)

    def gathered(self, answers_r: Sequence[Tensor], place_R: Tensor) -> tuple[Tensor, ...]:
        """Return the rows at ``place_R`` of all ranks' rows one after the other, (R,) each."""
        whole = _Gathered.apply(self, *answers_r)
        return tuple(column.index_select(0, place_R) for column in whole)

    def _for_all_ranks(self, part_1HtD: Tensor) -> Tensor:
        """Repeat heads that are fewer than ranks: a rank's query heads share the one it gets."""
        heads = part_1HtD.shape[1]
        if heads % self.size == 0:
            return part_1HtD
        assert self.size % heads == 0, (heads, self.size)
        return part_1HtD.repeat_interleave(self.size // heads, dim=1)


class _Exchanged(torch.autograd.Function):
    """Row p goes to rank p; row p of the result came from there. It is its own inverse."""

    @staticmethod
    def forward(ctx: Any, rows_P: Tensor, group: SequenceGroup) -> Tensor:
        ctx.group = group
        rows_P = rows_P.contiguous()
        received_P = torch.empty_like(rows_P)
        dist.all_to_all_single(received_P, rows_P, group=group.process_group)
        return received_P

    @staticmethod
    def backward(ctx: Any, grad_P: Tensor) -> tuple[Tensor, None]:
        return _Exchanged.apply(grad_P, ctx.group), None


class _Gathered(torch.autograd.Function):
    """Columns of r rows -> the same columns of all ranks' rows, in rank order.

    Every rank computes the same loss of them. Its own rows get their gradient from its own copy of
    that loss, and those of others none: they get theirs where they were computed.
    """

    @staticmethod
    def forward(ctx: Any, group: SequenceGroup, *columns_r: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        ctx.set_materialize_grads(False)  # an entropy that is only reported costs nothing
        mine = torch.stack([column_r.float() for column_r in columns_r])
        by_rank = mine.new_empty(group.size, *mine.shape)
        dist.all_gather(list(by_rank), mine, group=group.process_group)
        result = tuple(
            by_rank[:, i].reshape(-1).to(column_r.dtype) for i, column_r in enumerate(columns_r)
        )
        ctx.mark_non_differentiable(*(c for c in result if not c.dtype.is_floating_point))
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        mine = (None if g is None else g.view(ctx.group.size, -1)[ctx.group.rank] for g in grads)
        return None, *mine
