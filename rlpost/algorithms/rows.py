"""Arithmetic over logits, a few rows at a time.

Owns the split and the scaling. A dozen passes over (C, V) numbers in float32 take longer than the
matrix product that made them; a few rows at a time go through all of them while they are in the
cache, and no float32 copy of all rows exists.

Legend: C rows, V vocabulary.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

_CACHED_VALUES = 1 << 20  # float32 numbers of the rows that a CPU works on at once: 4 MiB
_CUDA_VALUES = 1 << 25  # a GPU needs many rows to be busy: 128 MiB


def by_rows(function: Callable[..., Any], logits_CV: Tensor, *args: Any) -> Iterator[Any]:
    """Call ``function`` on a few rows at a time; a tensor among ``args`` has a row for each."""
    values = _CUDA_VALUES if logits_CV.is_cuda else _CACHED_VALUES
    rows = max(1, values // logits_CV.shape[1])
    split = (arg.split(rows) if isinstance(arg, Tensor) else itertools.repeat(arg) for arg in args)
    for each in zip(logits_CV.split(rows), *split, strict=False):  # repeat has no end
        yield function(*each)


def scaled(logits_CV: Tensor, temperature: float) -> Tensor:
    """Return logits in float32, divided by the temperature."""
    logits_CV = logits_CV.float()
    return logits_CV if temperature == 1.0 else logits_CV / temperature
