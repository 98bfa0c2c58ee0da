"""Streams within a host through GPU memory that its processes map: CUDA IPC.

Exists with CUDA only, and has not run on a GPU yet. There is no group: all workers sit on the
sender's host and read the sender's two buckets, in turns that the host's ring keeps (ring.py).
Invariants: the buckets come from ``cudaMalloc`` itself, because memory of an allocator that grows
its segments cannot be exported; handles travel in the locator, as text.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch

from rlpost.weights.transports.cuda_checksum import sums
from rlpost.weights.transports.wire import WireGroup

_HANDLE_BYTES = 64  # CUDA_IPC_HANDLE_SIZE
_LAZY_PEER_ACCESS = 1  # cudaIpcMemLazyEnablePeerAccess


class _Handle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_byte * _HANDLE_BYTES),)


class _Memory:
    """Device memory at an address, as torch takes it without a copy."""

    def __init__(self, address: int, size_bytes: int) -> None:
        self.__cuda_array_interface__ = {
            "data": (address, False),
            "shape": (size_bytes,),
            "typestr": "|u1",
            "version": 3,
        }


class CudaIpcWire:
    """See ``wire.Wire``."""

    name = "cuda_ipc"
    every_worker_joins = False

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        torch.cuda.init()
        self._runtime = ctypes.CDLL(_loaded("libcudart"))
        self._imported: dict[str, list[torch.Tensor]] = {}
        self._own: list[int] = []

    def group(
        self, store: Any, *, host: str, rank: int, num_ranks: int, timeout_s: float
    ) -> WireGroup:
        raise RuntimeError(
            "weights.transport=cuda_ipc reaches the trainer's host alone, and a generator sits "
            "elsewhere; use nccl, gloo or auto"
        )

    def slots(self, size_bytes: int) -> list[torch.Tensor]:
        for address in self._own:
            self._call("cudaFree", ctypes.c_void_p(address))
        self._own = []
        for _ in range(2):
            pointer = ctypes.c_void_p()
            self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size_bytes))
            self._own.append(int(pointer.value or 0))
        return [self._tensor(address, size_bytes) for address in self._own]

    def exported(self, slots: list[torch.Tensor]) -> str | None:
        handles = []
        for slot in slots:
            handle = _Handle()
            pointer = ctypes.c_void_p(slot.data_ptr())
            self._call("cudaIpcGetMemHandle", ctypes.byref(handle), pointer)
            handles.append(bytes(handle).hex())
        return f"{slots[0].numel()} {' '.join(handles)}"

    def imported(self, handle: str) -> list[torch.Tensor]:
        if handle not in self._imported:
            size_bytes, *handles = handle.split()
            self._imported = {handle: [self._opened(each, int(size_bytes)) for each in handles]}
        return self._imported[handle]

    def _opened(self, text: str, size_bytes: int) -> torch.Tensor:
        handle, pointer = _Handle.from_buffer_copy(bytes.fromhex(text)), ctypes.c_void_p()
        flags = ctypes.c_uint(_LAZY_PEER_ACCESS)
        self._call("cudaIpcOpenMemHandle", ctypes.byref(pointer), handle, flags)
        return self._tensor(int(pointer.value or 0), size_bytes)

    def _tensor(self, address: int, size_bytes: int) -> torch.Tensor:
        return torch.as_tensor(_Memory(address, size_bytes), device=self.device)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._runtime, name)(*arguments)
        if code:
            raise RuntimeError(f"{name} failed with CUDA's error {code}")

    def checksum(self, payload: torch.Tensor) -> tuple[int, int]:
        return sums(payload)

    def settle(self) -> None:
        torch.cuda.current_stream().synchronize()


def _loaded(library: str) -> str:
    """Return the path of a library that this process has loaded: torch brings its own."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith(library):
            return path
    raise RuntimeError(f"{library} is not loaded: this torch has no CUDA")
