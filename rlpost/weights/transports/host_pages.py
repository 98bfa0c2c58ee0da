"""Files of the host's shared memory, mapped so that a GPU copies from and to them by itself.

Without that, CUDA copies through two small buffers of its own, at a quarter to half of the pace.
Owns which mappings of this process CUDA knows. Refuses to own what lies in them and when they may
be overwritten (shared_memory.py, ring.py). Invariants: with a device, a file is mapped and
registered once for as long as it exists; a mapping that is registered is held here, and is
unregistered before it ends, because CUDA would take whatever is mapped there next for the old
pages; where CUDA refuses, the pages are used all the same; without a device nothing is registered.

Has not run on a GPU yet: everything but CUDA's own two calls runs in the tests.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from rlpost.weights.transports.cuda_runtime import CudaRuntime

log = logging.getLogger(__name__)

_SLOWER = (
    "shared memory cannot be registered with CUDA, so weights are copied between it and GPUs at a "
    "lower pace: %s"
)


class PageRegistry(Protocol):
    """What makes host memory known to a device; see ``cuda_runtime.CudaRuntime``."""

    def register(self, pages: torch.Tensor) -> None:
        """Have the device copy from and to mapped memory by itself.

        Raises:
            RuntimeError: the host refuses.
        """

    def unregister(self, pages: torch.Tensor) -> None: ...
    def settle(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class _Mapped:
    descriptor: int  # tells whether the file was removed
    pages: torch.Tensor
    registered: bool


class HostPages:
    """The mappings of one process.

    Args:
        registry: of its device; None: it has none, and maps files as they come.
    """

    def __init__(self, registry: PageRegistry | None = None) -> None:
        self._registry = registry
        self._mapped: dict[tuple[int, int], _Mapped] = {}  # by device and number of the file
        self._was_refused = False

    def of(self, path: Path, size_bytes: int) -> torch.Tensor:
        """Return the bytes of a file, shared with whoever maps it; makes it if there is none."""
        if self._registry is None:
            return map_file(path, size_bytes)
        self.drop_removed()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        status = os.fstat(descriptor)
        file = (status.st_dev, status.st_ino)
        found = self._mapped.get(file)
        if found is not None:
            os.close(descriptor)
            assert found.pages.numel() == size_bytes, "a file keeps its size"
            return found.pages
        pages = map_file(path, size_bytes)
        self._mapped[file] = _Mapped(
            descriptor=descriptor, pages=pages, registered=self._registers(pages)
        )
        return pages

    def _registers(self, pages: torch.Tensor) -> bool:
        assert self._registry is not None
        try:
            self._registry.register(pages)
        except RuntimeError as error:
            if not self._was_refused:
                log.warning(_SLOWER, error)
            self._was_refused = True
            return False
        return True

    def settle(self) -> None:
        """Wait until the device has done what it was told to copy; then pages may change."""
        if self._registry is not None and any(each.registered for each in self._mapped.values()):
            self._registry.settle()

    def drop_removed(self) -> None:
        """Let go of the files that were removed, which hold memory until nobody maps them."""
        for file, each in list(self._mapped.items()):
            if os.fstat(each.descriptor).st_nlink == 0:
                self._drop(file)

    def _drop(self, file: tuple[int, int]) -> None:
        each = self._mapped.pop(file)
        os.close(each.descriptor)
        if each.registered:
            assert self._registry is not None
            self._registry.settle()
            self._registry.unregister(each.pages)

    def close(self) -> None:
        """Let go of everything."""
        for file in list(self._mapped):
            self._drop(file)


def host_pages(device: torch.device) -> HostPages:
    """Return the mappings of a process that computes on ``device``."""
    if device.type == "cpu":
        return HostPages()
    try:
        return HostPages(CudaRuntime())
    except RuntimeError as error:
        log.warning(_SLOWER, error)
        return HostPages()


def map_file(path: Path, size_bytes: int) -> torch.Tensor:
    """Return the bytes of a file, shared with whoever maps it; makes it if there is none."""
    return torch.from_file(str(path), shared=True, size=size_bytes, dtype=torch.uint8)
