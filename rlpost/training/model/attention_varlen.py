"""Packed attention as one call of a flash kernel: half precision on CUDA.

Owns the choice of the kernel and the form in which it wants a layout. Refuses to own which
token sees which (attention.py). Invariant: up to rounding the numbers are those of
attention.py's loop.

Every segment becomes a sequence of its own, so a shared prompt's keys are repeated before
each of its responses. That costs one gather a layer and keeps to public interfaces: two calls
merged by their log-sum-exp would need the kernel's private backward pass.

Legend: T packed tokens, L keys with repetitions, S segments, H heads, K key-value heads, D
head width.
"""

import functools
import importlib.util
import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from rlpost.training.model.attention_segment import Scoring
from rlpost.training.precision import on_device

Range = tuple[int, int]

# Causal from the end backwards: with fewer queries than keys, the last query sees every key.
Kernel = Callable[[Tensor, Tensor, Tensor, "Sequences", Scoring], Tensor]

_WIDEST_HEAD = 256  # of flash kernels


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """A layout as the kernels take it.

    Example: a prompt of 4 tokens and responses of 3 and 2 that share it: ``query_ends_S``
    [0, 4, 7, 9], ``key_ends_S`` [0, 4, 11, 17].
    """

    query_ends_S: Tensor  # int32, a leading 0 first
    key_ends_S: Tensor
    longest_query: int
    longest_key: int
    token_L: Tensor | None  # int64, the token of each key; None: the tokens as they are

    @classmethod
    def of(
        cls, segments: Sequence[tuple[Range, Range | None]], *, device: torch.device
    ) -> "Sequences":
        """Lay out ``(queries, prefix)`` ranges that tile the packed tokens."""
        queries = [end - start for (start, end), _ in segments]
        keys = [
            count + (prefix[1] - prefix[0] if prefix else 0)
            for count, (_, prefix) in zip(queries, segments, strict=True)
        ]
        token_L = None
        if keys != queries:
            ranges = [r for own, prefix in segments for r in ((prefix, own) if prefix else (own,))]
            token_L = on_device(torch.cat([torch.arange(*r) for r in ranges]), device)
        return cls(
            query_ends_S=_ends(queries, device),
            key_ends_S=_ends(keys, device),
            longest_query=max(queries),
            longest_key=max(keys),
            token_L=token_L,
        )


def _ends(lengths: Sequence[int], device: torch.device) -> Tensor:
    ends = [0, *itertools.accumulate(lengths)]
    return on_device(torch.tensor(ends, dtype=torch.int32), device)


def kernel_for(query_1HTD: Tensor, scoring: Scoring) -> Kernel | None:
    """The kernel that takes such queries and scores, if there is one."""
    width = query_1HTD.shape[-1]
    fits = (
        query_1HTD.is_cuda
        and query_1HTD.dtype in (torch.bfloat16, torch.float16)
        and width % 8 == 0
        and width <= _WIDEST_HEAD
        and torch.cuda.get_device_capability(query_1HTD.device) >= (8, 0)
    )
    return _installed_kernel(capped=scoring.softcap is not None) if fits else None


def attend(
    kernel: Kernel,
    query_1HTD: Tensor,
    key_1KTD: Tensor,
    value_1KTD: Tensor,
    *,
    sequences: Sequences,
    scoring: Scoring,
) -> Tensor:
    """Attend within each sequence, causally; returns (1, T, H, D)."""
    query_THD, key, value = (x[0].transpose(0, 1) for x in (query_1HTD, key_1KTD, value_1KTD))
    if sequences.token_L is not None:
        key, value = (_Repeated.apply(x, sequences.token_L) for x in (key, value))
    return kernel(query_THD, key, value, sequences, scoring)[None]


class _Repeated(torch.autograd.Function):
    """Rows by index; the gradients of one row's copies are summed in float32."""

    @staticmethod
    def forward(ctx: Any, rows_TKD: Tensor, token_L: Tensor) -> Tensor:
        ctx.save_for_backward(token_L)
        ctx.shape = rows_TKD.shape
        return rows_TKD.index_select(0, token_L)

    @staticmethod
    def backward(ctx: Any, grad_LKD: Tensor) -> tuple[Tensor, None]:
        (token_L,) = ctx.saved_tensors
        total_TKD = torch.zeros(ctx.shape, dtype=torch.float32, device=grad_LKD.device)
        return total_TKD.index_add_(0, token_L, grad_LKD.float()).to(grad_LKD.dtype), None


@functools.cache
def _installed_kernel(*, capped: bool) -> Kernel | None:
    """Torch's own kernel, else flash-attn's, which alone caps scores, else None."""
    if capped:
        return _flash_attn_kernel()
    return _torch_kernel() or _flash_attn_kernel()


def _looks_back(scoring: Scoring, sequences: Sequences) -> int:
    """Return how many keys before its own a query sees, as flash kernels count; -1: all."""
    if scoring.window is None or not scoring.limits(sequences.longest_key):
        return -1
    return scoring.window - 1


def _torch_kernel() -> Kernel | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    options = inspect.signature(varlen_attn).parameters
    if not {"scale", "window_size"} <= options.keys():
        return None  # as it was at first: the scale fixed
    grouped: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in options else {}

    def run(
        query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, scoring: Scoring
    ) -> Tensor:
        result = varlen_attn(
            query,
            key,
            value,
            sequences.query_ends_S,
            sequences.key_ends_S,
            sequences.longest_query,
            sequences.longest_key,
            scale=scoring.scaling,
            window_size=(_looks_back(scoring, sequences), 0),
            **grouped,
        )
        return cast(Tensor, result)

    return run


def _flash_attn_kernel() -> Kernel | None:
    if importlib.util.find_spec("flash_attn") is None:
        return None
    from flash_attn import flash_attn_varlen_func

    if (
        not {"window_size", "softcap"}
        <= inspect.signature(flash_attn_varlen_func).parameters.keys()
    ):
        return None

    def run(
        query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, scoring: Scoring
    ) -> Tensor:
        result: Tensor = flash_attn_varlen_func(
            query,
            key,
            value,
            sequences.query_ends_S,
            sequences.key_ends_S,
            sequences.longest_query,
            sequences.longest_key,
            softmax_scale=scoring.scaling,
            causal=True,
            window_size=(_looks_back(scoring, sequences), 0),
            softcap=scoring.softcap or 0.0,
        )
        return result

    return run
