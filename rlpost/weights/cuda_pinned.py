"""Pinned host memory, into which a GPU copies while its kernels go on.

Exists with CUDA only, and has not run on a GPU yet: a host without one runs everything around it
(``vllm_way_back.CopyBehindCommit``) with other memory.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlpost.training.pinned_memory import pinned_pieces


class PinnedMemory:
    """See ``vllm_way_back.SideMemory``."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    def room(self, size_bytes: int) -> list[Tensor]:
        return pinned_pieces(
            size_bytes,
            purpose="an engine's copy of the committed weights",
            way_out="run fewer engines on a host",
        )

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
