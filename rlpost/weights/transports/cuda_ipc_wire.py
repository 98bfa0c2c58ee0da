"""Streams within a host through GPU memory that its processes map: CUDA IPC.

Has not run on a GPU yet. There is no group: every rank of the trainer sends to the workers on its
own GPU, which read its two buckets in turns that a ring keeps (ring.py), so no byte leaves a GPU.
Owns the two buckets at both ends. Refuses to own how memory is shared (cuda_runtime.py) and who is
on which GPU (route.py). Invariants: handles travel in the locator, as text; nobody keeps the memory
of an earlier sender once it has another one's.
"""

from typing import Any, Protocol

import torch

from rlpost.weights.transports.cuda_runtime import CudaRuntime
from rlpost.weights.transports.wire import WireGroup
from rlpost.weights.word_sums import checksum


class SharedDevice(Protocol):
    """Memory of a device that processes of a host share; see ``cuda_runtime.CudaRuntime``."""

    device: torch.device

    @property
    def gpu(self) -> str: ...
    def allocate(self, size_bytes: int) -> torch.Tensor: ...
    def free(self, memory: torch.Tensor) -> None: ...
    def export(self, memory: torch.Tensor) -> str: ...
    def open(self, handle: str, size_bytes: int) -> torch.Tensor: ...
    def close(self, memory: torch.Tensor) -> None: ...
    def settle(self) -> None: ...


class CudaIpcWire:
    """See ``wire.Wire``.

    Args:
        shared: where buckets lie; None: on the current GPU of this thread.
    """

    name = "cuda_ipc"
    every_worker_joins = False
    exports = True
    checksum = staticmethod(checksum)

    def __init__(self, shared: SharedDevice | None = None) -> None:
        self._shared = CudaRuntime() if shared is None else shared
        self.device = self._shared.device
        self.gpu: str | None = self._shared.gpu
        self._own: list[torch.Tensor] = []
        self._opened: list[torch.Tensor] = []
        self._handle = ""  # of those that are opened

    def group(
        self, store: Any, *, host: str, rank: int, num_ranks: int, timeout_s: float
    ) -> WireGroup:
        raise RuntimeError(
            "weights.transport=cuda_ipc needs trainer and generator to see one /dev/shm, and they "
            "share a GPU from containers that do not; use nccl, gloo or auto"
        )

    def slots(self, size_bytes: int) -> list[torch.Tensor]:
        self._free()
        for _ in range(2):
            self._own.append(self._shared.allocate(size_bytes))
        return list(self._own)

    def _free(self) -> None:
        while self._own:
            self._shared.free(self._own.pop())

    def exported(self, slots: list[torch.Tensor]) -> str:
        return " ".join([str(slots[0].numel()), *(self._shared.export(slot) for slot in slots)])

    def imported(self, handle: str) -> list[torch.Tensor]:
        if handle != self._handle:
            self._close()
            size_bytes, *slots = handle.split()
            for each in slots:
                self._opened.append(self._shared.open(each, int(size_bytes)))
            self._handle = handle
        return list(self._opened)

    def _close(self) -> None:
        self._handle = ""
        while self._opened:
            self._shared.close(self._opened.pop())

    def settle(self) -> None:
        self._shared.settle()

    def close(self) -> None:
        self.settle()
        self._close()
        self._free()
