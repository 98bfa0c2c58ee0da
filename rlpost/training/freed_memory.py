"""What becomes of memory that a process has freed: allocators keep much of it for themselves.

Owns the calls to the allocators of CPU and GPU. Invariant: outside of a block the C library's
allocator behaves as it does by itself once a process has freed large blocks.

Source: ``man mallopt`` and glibc's ``malloc.c``; a GPU's allocator has blocks in segments.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LIBC = ctypes.CDLL(None)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGE_BYTES = 1 << 20
# Where glibc's own thresholds end: blocks below come from the heap.
_GLIBC_LARGE_BYTES = 32 << 20


def give_back(device: torch.device) -> None:
    """Return freed memory of a device to the system, where whole pages of it are free."""
    if device.type == "cpu":
        _LIBC.malloc_trim(0)
    else:
        torch.cuda.empty_cache()


@contextmanager
def returned_when_freed() -> Iterator[None]:
    """Have large blocks of the host that are made inside go back to the system when they are freed.

    Otherwise those below 32 MiB lie in the heap, and what is freed between others stays resident.
    A block for which the heap has a hole still lies there: few are found before a model is loaded.
    It costs a call of the system and fresh pages for each block: for loading, not for steps.
    """
    _set_large(_LARGE_BYTES)
    try:
        yield
    finally:
        _set_large(_GLIBC_LARGE_BYTES)


def _set_large(size_bytes: int) -> None:
    _LIBC.mallopt(_MMAP_THRESHOLD, size_bytes)
    _LIBC.mallopt(_TRIM_THRESHOLD, 2 * size_bytes)
