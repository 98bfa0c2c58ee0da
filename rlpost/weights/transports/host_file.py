"""One file in a host's shared memory that its engines map: what one of them received for all.

Owns the file ``/dev/shm/rlpost-<run>-received`` of a host that no trainer writes to. Invariants: a
payload takes the place of the one before it, in the same pages, so a host never holds two; a file
that no process has open is removed by the next one that looks, whatever ended its owners.
"""

import fcntl
import os
from pathlib import Path

import torch

from rlpost.errors import WeightPushError
from rlpost.weights.transports.shared_memory import map_file, shared_memory_directory


class HostFile:
    """One process's hold on the file.

    Args:
        run_id: names the run among all of a host.
        directory: the host's shared memory.
    """

    def __init__(self, *, run_id: str, directory: Path | None = None) -> None:
        self._directory = directory or shared_memory_directory()
        self._path = self._directory / f"rlpost-{run_id}-received"
        self._descriptor: int | None = None
        self._pages = torch.empty(0, dtype=torch.uint8)

    def to_write(self, size_bytes: int) -> torch.Tensor:
        """Return all pages, which are those of the last payload unless that had another size.

        Raises:
            WeightPushError: the shared memory has no room.
        """
        if not self._holds(size_bytes):
            self.close()
            remove_unused(self._directory)
            self._create(size_bytes)
        return self._pages

    def to_read(self, size_bytes: int) -> torch.Tensor:
        """Return the pages that another process of this host wrote.

        Raises:
            WeightPushError: there is no such file, or it has another size.
        """
        if not self._holds(size_bytes):
            self.close()
            try:
                self._open(os.O_RDWR, size_bytes)
            except OSError as error:
                raise WeightPushError(f"{self._path} cannot be read: {error}") from error
        return self._pages

    def _holds(self, size_bytes: int) -> bool:
        """Whether the file of that name is the one that is mapped, and as large."""
        if self._descriptor is None or self._pages.numel() != size_bytes:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def _create(self, size_bytes: int) -> None:
        if self._path.exists() and self._path.stat().st_size != size_bytes:
            self._path.unlink()  # others keep what they have mapped
        try:
            self._open(os.O_RDWR | os.O_CREAT, size_bytes)
            assert self._descriptor is not None
            # Whoever wrote to pages that are not there would be killed.
            os.posix_fallocate(self._descriptor, 0, size_bytes)
        except OSError as error:
            self._path.unlink(missing_ok=True)
            self.close()
            raise WeightPushError(
                f"shared memory at {self._directory} has no room for a payload of "
                f"{size_bytes >> 20} MiB ({error}); enlarge it or set weights.transport=filesystem"
            ) from error

    def _open(self, flags: int, size_bytes: int) -> None:
        self._descriptor = os.open(self._path, flags, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)  # it is in use
        if not os.path.samestat(os.fstat(self._descriptor), self._path.stat()):
            raise OSError("another process replaced it")
        if flags & os.O_CREAT:
            os.ftruncate(self._descriptor, size_bytes)
        elif os.fstat(self._descriptor).st_size != size_bytes:
            raise OSError(f"it does not hold {size_bytes} bytes")
        self._pages = map_file(self._path, size_bytes)

    def close(self) -> None:
        """Let go of it; tensors that map its pages stay valid."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._pages = None, torch.empty(0, dtype=torch.uint8)


def remove_unused(directory: Path | None = None) -> None:
    """Remove every such file that no process has open, of whatever run."""
    for path in (directory or shared_memory_directory()).glob("rlpost-*-received"):
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:  # gone meanwhile, or another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except OSError:  # it is in use
            continue
        finally:
            os.close(descriptor)
