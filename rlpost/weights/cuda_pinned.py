"""Pinned host memory, into which a GPU copies while its kernels go on.

Exists with CUDA only, and has not run on a GPU yet: a host without one runs everything around it
(``vllm_way_back.CopyBehindCommit``) with other memory.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlpost.training.parking import PIECE_BYTES


class PinnedMemory:
    """See ``vllm_way_back.SideMemory``."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    def room(self, size_bytes: int) -> list[Tensor]:
        # Of one size, because torch rounds what it pins up to a power of two.
        number = -(-size_bytes // PIECE_BYTES)
        return [torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(number)]

    def copy_out(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for source, copy in pairs:
                copy.copy_(source, non_blocking=True)

    def settle(self) -> None:
        self._stream.synchronize()

    def copy_back(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        for target, copy in pairs:
            target.copy_(copy, non_blocking=True)
        torch.cuda.current_stream().synchronize()
