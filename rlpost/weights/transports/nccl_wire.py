"""Streams over NCCL: buckets in GPU memory, every worker a member of the group.

Exists with CUDA only, and has not run on GPUs yet: the group needs two of them. What it shares with
gloo, which is everything but this file, runs on CPUs with every worker a member, too. NCCL refuses
two members on one GPU, so trainer and engines must not share any. Invariant: NCCL has no deadline
of its own for a host that waits, so it is kept here, and a group that missed it is aborted.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch

from rlpost.weights.transports.cuda_checksum import sums

_LOOK_EVERY_S = 1.0
_PAUSE_S = 0.0002


class NcclGroup:
    """See ``wire.WireGroup``."""

    def __init__(self, group: Any, *, timeout_s: float) -> None:
        self._group = group
        self._timeout_s = timeout_s

    def broadcast(self, slot: torch.Tensor) -> Any:
        from torch.distributed import BroadcastOptions

        options = BroadcastOptions()
        options.rootRank, options.asyncOp = 0, True
        return self._group.broadcast([slot], options)

    def wait(self, work: Any, *, look: Callable[[], None]) -> None:
        until_s = time.monotonic() + self._timeout_s
        look_s = time.monotonic() + _LOOK_EVERY_S
        while not work.is_completed():
            now_s = time.monotonic()
            if now_s > until_s:
                raise RuntimeError(f"a bucket did not arrive in {self._timeout_s:g} s")
            if now_s > look_s:
                look()
                look_s = now_s + _LOOK_EVERY_S
            time.sleep(_PAUSE_S)
        work.wait()  # raises what went wrong, and orders what the current stream does next

    def drop(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.abort()


class NcclWire:
    """See ``wire.Wire``."""

    name = "nccl"
    every_worker_joins = True

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())

    def group(
        self, store: Any, *, host: str, rank: int, num_ranks: int, timeout_s: float
    ) -> NcclGroup:
        from torch.distributed import ProcessGroupNCCL

        options = ProcessGroupNCCL.Options()
        options._timeout = timedelta(seconds=timeout_s)
        return NcclGroup(ProcessGroupNCCL(store, rank, num_ranks, options), timeout_s=timeout_s)

    def slots(self, size_bytes: int) -> list[torch.Tensor]:
        return [torch.empty(size_bytes, dtype=torch.uint8, device=self.device) for _ in range(2)]

    def exported(self, slots: list[torch.Tensor]) -> str | None:
        return None  # every worker has its own

    def imported(self, handle: str) -> list[torch.Tensor]:
        raise AssertionError("nothing was exported")

    def checksum(self, payload: torch.Tensor) -> tuple[int, int]:
        return sums(payload)

    def settle(self) -> None:
        torch.cuda.current_stream().synchronize()
