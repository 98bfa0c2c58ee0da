"""Host memory that a GPU reads and writes by itself, because the system never moves it.

Owns its allocation in pieces, and what is said when it is refused. Refuses to own what is copied
into it (parking.py, weights/). Invariant: who is refused holds nothing of what was asked for.
"""

import resource
from collections.abc import Callable

import psutil
import torch
from torch import Tensor

from rlpost.errors import InfrastructureError

PIECE_BYTES = 1 << 26
_GIB = 2**30

Allocate = Callable[[], Tensor]  # one piece; RuntimeError is CUDA's refusal


class NotPinned(InfrastructureError):
    """The system refused to pin host memory."""


def _pinned_piece() -> Tensor:
    return torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True)


def pinned_pieces(
    size_bytes: int, *, purpose: str, way_out: str, allocate: Allocate = _pinned_piece
) -> list[Tensor]:
    """Return pieces of ``PIECE_BYTES`` each, uint8, that hold ``size_bytes`` together.

    They are of one size, because torch rounds what it pins up to a power of two.

    Args:
        size_bytes: how much is needed.
        purpose: what needs it, the beginning of an error.
        way_out: how to need less, the end of an error.
        allocate: makes one piece.

    Raises:
        NotPinned: the system refused.
    """
    pieces: list[Tensor] = []
    while len(pieces) * PIECE_BYTES < size_bytes:
        try:
            pieces.append(allocate())
        except RuntimeError as error:  # a CUDA error, without a class for memory
            had = len(pieces) * PIECE_BYTES
            pieces.clear()  # the traceback would keep them
            raise NotPinned(_refusal(size_bytes, had, purpose, way_out, error)) from error
    return pieces


def _refusal(size_bytes: int, had: int, purpose: str, way_out: str, error: Exception) -> str:
    free = psutil.virtual_memory().available
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    locked = "unlimited" if limit == resource.RLIM_INFINITY else f"{limit / _GIB:.2f} GiB"
    return (
        f"{purpose} needs {size_bytes / _GIB:.2f} GiB of pinned host memory, and the system "
        f"refused after {had / _GIB:.2f} GiB ({str(error).strip()}); the host has "
        f"{free / _GIB:.2f} GiB free, and this process may lock {locked} (`ulimit -l`). Raise the "
        f"limit, give the host more memory, or {way_out}"
    )
