"""The few functions of CUDA's runtime that concern memory which processes share.

Exists with CUDA only, and has not run on a GPU yet. Owns the calls and their errors. Invariants: a
call that fails leaves no error behind for torch to find; memory comes from ``cudaMalloc`` itself,
because memory of an allocator that grows its segments cannot be exported.

Source: ``cuda_runtime_api.h`` of CUDA 13.0.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch

_HANDLE_BYTES = 64  # CUDA_IPC_HANDLE_SIZE
_LAZY_PEER_ACCESS = 1  # cudaIpcMemLazyEnablePeerAccess
_PORTABLE = 1  # cudaHostRegisterPortable: for every context of the process
# Smaller allocations may lie in one block, and a handle is that of the whole block.
_BLOCK_BYTES = 2 << 20


class _Handle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_char * _HANDLE_BYTES),)


class CudaRuntime:
    """The library that torch has loaded, for the current GPU of the thread that asks for it.

    Memory is allocated there, and from there that of others is read.
    """

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self._library = ctypes.CDLL(_loaded("libcudart"))
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    @property
    def gpu(self) -> str:
        """See ``gpu_id``."""
        return gpu_id(self.device)

    def allocate(self, size_bytes: int) -> torch.Tensor:
        """Return uint8 of the device that can be exported; ``free`` gives it back."""
        pointer = ctypes.c_void_p()
        blocks_bytes = -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES
        self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(blocks_bytes))
        return memory_at(pointer.value or 0, size_bytes, device=self.device)

    def free(self, memory: torch.Tensor) -> None:
        """Give back what ``allocate`` returned."""
        self._call("cudaFree", ctypes.c_void_p(memory.data_ptr()))

    def export(self, memory: torch.Tensor) -> str:
        """Return by what another process of this host opens what ``allocate`` returned."""
        handle = _Handle()
        address = ctypes.c_void_p(memory.data_ptr())
        self._call("cudaIpcGetMemHandle", ctypes.byref(handle), address)
        return bytes(handle).hex()

    def open(self, handle: str, size_bytes: int) -> torch.Tensor:
        """Return what another process exported, on whichever GPU; ``close`` lets go of it."""
        given, pointer = _Handle.from_buffer_copy(bytes.fromhex(handle)), ctypes.c_void_p()
        flags = ctypes.c_uint(_LAZY_PEER_ACCESS)
        self._call("cudaIpcOpenMemHandle", ctypes.byref(pointer), given, flags)
        return memory_at(pointer.value or 0, size_bytes, device=self.device)

    def close(self, memory: torch.Tensor) -> None:
        """Let go of what ``open`` returned, without which its owner cannot free it."""
        self._call("cudaIpcCloseMemHandle", ctypes.c_void_p(memory.data_ptr()))

    def register(self, pages: torch.Tensor) -> None:
        """Have the device copy from and to host memory by itself, until ``unregister``.

        Raises:
            RuntimeError: the host refuses, as its limit of locked memory makes it.
        """
        address, size = ctypes.c_void_p(pages.data_ptr()), ctypes.c_size_t(pages.numel())
        self._call("cudaHostRegister", address, size, ctypes.c_uint(_PORTABLE))

    def unregister(self, pages: torch.Tensor) -> None:
        """Take back ``register``, before the memory is unmapped."""
        self._call("cudaHostUnregister", ctypes.c_void_p(pages.data_ptr()))

    def settle(self) -> None:
        """Wait until what this thread began on the device is done."""
        torch.cuda.current_stream(self.device).synchronize()

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a function with the device as the current one, which each thread has its own of.

        Raises:
            RuntimeError: it failed.
        """
        with torch.cuda.device(self.device):
            code = getattr(self._library, name)(*arguments)
            if code:
                self._library.cudaGetLastError()  # clears it; torch would report it as its own
                what = self._library.cudaGetErrorString(code).decode(errors="replace")
                raise RuntimeError(f"{name} failed: {what}")


def gpu_id(device: torch.device) -> str:
    """Return what names a GPU in every process that sees it."""
    return str(torch.cuda.get_device_properties(device).uuid)


def memory_at(address: int, size_bytes: int, *, device: torch.device) -> torch.Tensor:
    """Return uint8 that lies at an address, which must be valid for as long as it is used.

    Not by ``torch.as_tensor``, which asks CUDA for the GPU of an address and copies what lies on
    another one: that of another process may even be none that this process can see.
    """
    storage = torch._C._construct_storage_from_data_pointer(address, device, size_bytes)
    return torch.empty(0, dtype=torch.uint8, device=device).set_(storage)


def _loaded(library: str) -> str:
    """Return the path of a library that this process has loaded: torch brings its own."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith(library):
            return path
    raise RuntimeError(f"{library} is not loaded: this torch has no CUDA")
