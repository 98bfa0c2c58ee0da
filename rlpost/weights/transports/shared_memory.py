"""Payloads in files of the host's shared memory: one copy, read by every generator.

Owns the files ``/dev/shm/rlpost-<run>-v<version>``. Invariants: until its version is released a
file stays as it was written, so who joins late gets the version that is served; ``close`` unlinks
them all; a receiver answers only when its device has read what it was told to. The pages of a
released version are kept for the next one, because fresh pages cost eight times the copy: a
receiver that still maps them sees another version, and its checksums tell.
"""

import glob
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from rlpost.errors import WeightPushError
from rlpost.weights.manifest import PushManifest, Tensors, read_payload
from rlpost.weights.transports.host_pages import HostPages
from rlpost.weights.transports.protocol import Locator, Seat


def shared_memory_directory() -> Path:
    """Return where the host's shared memory has its files."""
    shm = Path("/dev/shm")
    return shm if shm.is_dir() else Path(tempfile.gettempdir())


def shared_memory_id() -> str:
    """Name the shared memory that this process sees, for whoever asks who else does.

    Two containers on one machine have one each unless they were given the same; two machines
    may have the same name.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    booted = boot.read_text().strip() if boot.exists() else ""
    return f"{socket.gethostname()} {booted} {shared_memory_directory().stat().st_dev}"


class SharedMemorySender:
    """Writes each version into its own file; see ``protocol.StagedSender``.

    Args:
        run_id: names the run among all of a host.
        pages: the mappings of this process; None: it has no device.
    """

    def __init__(self, *, run_id: str, pages: HostPages | None = None) -> None:
        self.run_id = run_id
        self._pages = pages or HostPages()
        for left in shared_memory_directory().glob(f"rlpost-{glob.escape(run_id)}-v*"):
            left.unlink(missing_ok=True)  # of an earlier trainer of this run, which was killed
        self._buffers: dict[int, torch.Tensor] = {}
        self._kept: set[int] = set()  # versions that were announced and not released
        self._spare: torch.Tensor | None = None  # the pages of a released version

    def buffer(self, size_bytes: int, *, version: int) -> torch.Tensor:
        for other in self._buffers.keys() - self._kept:
            self.release(other)
        pages = self._reuse(size_bytes, version)
        if pages is None:
            pages = self._make(size_bytes, version)
        self._buffers[version] = pages
        return pages

    def _path(self, version: int | str) -> Path:
        return shared_memory_directory() / f"rlpost-{self.run_id}-v{version}"

    def _reuse(self, size_bytes: int, version: int) -> torch.Tensor | None:
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        if spare.numel() != size_bytes or not self._path("spare").exists():
            self._path("spare").unlink(missing_ok=True)
            self._pages.drop_removed()
            return None
        self._path("spare").rename(self._path(version))
        return spare

    def _make(self, size_bytes: int, version: int) -> torch.Tensor:
        directory = shared_memory_directory()
        free = os.statvfs(directory)
        free_bytes = free.f_bavail * free.f_frsize
        if free_bytes < size_bytes:
            raise WeightPushError(
                f"shared memory at {directory} has {free_bytes >> 20} MiB free, a push needs "
                f"{size_bytes >> 20} MiB; enlarge it or set weights.transport=filesystem"
            )
        return self._pages.of(self._path(version), size_bytes)

    def announce(self, manifest: PushManifest, *, seats: Sequence[Seat]) -> Locator:
        self._kept.add(manifest.version)
        where = {"path": str(self._path(manifest.version))}
        return Locator(
            transport="shared_memory",
            manifest=manifest.to_dict(),
            where=where,
            memory=shared_memory_id(),
        )

    def release(self, version: int) -> None:
        self._kept.discard(version)
        pages = self._buffers.pop(version, None)
        if pages is None:
            return
        if self._spare is None and self._path(version).exists():
            self._path(version).rename(self._path("spare"))
            self._spare = pages
        else:
            self._path(version).unlink(missing_ok=True)
            self._pages.drop_removed()

    def close(self) -> None:
        for version in list(self._buffers):
            self.release(version)
        self._spare = None
        self._path("spare").unlink(missing_ok=True)
        self._pages.close()


class SharedMemoryReceiver:
    """Maps the sender's file; see ``protocol.Receiver``.

    Args:
        pages: the mappings of this process; None: it has no device.
    """

    def __init__(self, pages: HostPages | None = None) -> None:
        self._pages = pages or HostPages()

    def buckets(self, locator: Locator) -> Iterator[Tensors]:
        path = Path(locator.where["path"])
        if not path.exists():
            raise WeightPushError(
                f"{path} is not on this host; weights.transport=shared_memory needs trainer and "
                "generator on one host, gloo and filesystem cross hosts"
            )
        pages = self._pages.of(path, path.stat().st_size)
        try:
            yield read_payload(PushManifest.from_dict(locator.manifest), pages)
        finally:
            self._pages.settle()  # the sender may fill them anew once this worker has answered

    def close(self) -> None:
        self._pages.close()
