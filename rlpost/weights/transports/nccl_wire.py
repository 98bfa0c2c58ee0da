"""Streams over NCCL: buckets in GPU memory, every worker a member of the group.

Exists with CUDA only, and has not run on GPUs yet: the group needs two of them. What it shares with
gloo, which is everything but this file, runs on CPUs with every worker a member, too. NCCL refuses
two members on one GPU, so trainer and engines must not share any. Invariants: no wait is without a
deadline of our own, the wait for peers included; a peer that dies costs a push, and no process.

Source: ``torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp``.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Thread
from typing import Any

import torch

from rlpost.weights.transports.wire import run_aside
from rlpost.weights.word_sums import checksum

_LOOK_EVERY_S = 1.0
_PAUSE_S = 0.0002


class NcclGroup:
    """See ``wire.WireGroup``."""

    def __init__(self, group: Any, *, timeout_s: float) -> None:
        self._group = group
        self._timeout_s = timeout_s

    def connect(self, device: torch.device) -> None:
        """Wait until every peer has come; by itself NCCL waits for them in the first broadcast.

        Raises:
            RuntimeError: one did not, or it failed. Its thread stays behind: nothing ends it.
        """
        failures: list[RuntimeError] = []

        def run() -> None:
            try:
                self._group.eager_connect_single_device(device)
            except RuntimeError as error:
                failures.append(error)

        thread = Thread(target=run, daemon=True)
        thread.start()
        thread.join(self._timeout_s)
        if thread.is_alive():
            raise RuntimeError(f"not all members came in {self._timeout_s:g} s")
        if failures:
            raise failures[0]

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
            run_aside(group.abort)  # it waits for the kernels that it ends


@contextmanager
def without_watchdog() -> Iterator[None]:
    """Have torch make NCCL groups whose errors are raised where they are waited for.

    Otherwise a thread of torch ends this process, the trainer's or an engine's, a minute after it
    has seen that a peer is gone or late. Groups that exist keep theirs.
    """
    name = "TORCH_NCCL_BLOCKING_WAIT"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


class NcclWire:
    """See ``wire.Wire``.

    Args:
        device: where buckets lie; None: the current GPU of this thread.
    """

    name = "nccl"
    every_worker_joins = True
    exports = False
    gpu: str | None = None
    checksum = staticmethod(checksum)

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cuda", torch.cuda.current_device())

    def group(
        self, store: Any, *, host: str, rank: int, num_ranks: int, timeout_s: float
    ) -> NcclGroup:
        from torch.distributed import ProcessGroupNCCL

        options = ProcessGroupNCCL.Options()
        options._timeout = timedelta(seconds=timeout_s)
        with without_watchdog():
            group = ProcessGroupNCCL(store, rank, num_ranks, options)
        formed = NcclGroup(group, timeout_s=timeout_s)
        try:
            formed.connect(self.device)
        except RuntimeError:
            formed.drop()
            raise
        return formed

    def slots(self, size_bytes: int) -> list[torch.Tensor]:
        return [torch.empty(size_bytes, dtype=torch.uint8, device=self.device) for _ in range(2)]

    def exported(self, slots: list[torch.Tensor]) -> str:
        raise AssertionError("nothing is exported")

    def imported(self, handle: str) -> list[torch.Tensor]:
        raise AssertionError("nothing is exported")

    def settle(self) -> None:
        torch.cuda.current_stream(self.device).synchronize()

    def close(self) -> None:
        """Slots are torch's."""
