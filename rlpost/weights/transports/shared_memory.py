"""Payloads in files of the host's shared memory: one copy, read by every generator.

Owns the files ``/dev/shm/rlpost-<run>-v<version>``. Invariant: a file is unlinked by
``release``/``close``; a receiver's mapping stays valid after that, so the version being
served can be loaded again without a second copy.
"""

import glob
import os
import tempfile
from pathlib import Path

import torch

from rlpost.errors import WeightPushError
from rlpost.weights.manifest import PushManifest
from rlpost.weights.transports.protocol import Locator


def _directory() -> Path:
    shm = Path("/dev/shm")
    return shm if shm.is_dir() else Path(tempfile.gettempdir())


def _map(path: Path, size_bytes: int) -> torch.Tensor:
    return torch.from_file(str(path), shared=True, size=size_bytes, dtype=torch.uint8)


class SharedMemorySender:
    """Writes each version into its own file; see ``protocol.Sender``."""

    def __init__(self, *, run_id: str) -> None:
        self._run_id = run_id
        for left in _directory().glob(f"rlpost-{glob.escape(run_id)}-v*"):
            left.unlink(missing_ok=True)  # of an earlier trainer of this run, which was killed
        self._paths: dict[int, Path] = {}

    def buffer(self, size_bytes: int, *, version: int) -> torch.Tensor:
        free = os.statvfs(_directory())
        free_bytes = free.f_bavail * free.f_frsize
        if free_bytes < size_bytes:
            raise WeightPushError(
                f"shared memory at {_directory()} has {free_bytes >> 20} MiB free, a push needs "
                f"{size_bytes >> 20} MiB; enlarge it or set weights.transport=filesystem"
            )
        path = _directory() / f"rlpost-{self._run_id}-v{version}"
        self._paths[version] = path
        return _map(path, size_bytes)

    def announce(self, manifest: PushManifest, *, num_receivers: int) -> Locator:
        where = {"path": str(self._paths[manifest.version])}
        return Locator(transport="shared_memory", manifest=manifest.to_dict(), where=where)

    def send(self) -> None:
        """Nothing to do: the receivers map the file."""

    def release(self, version: int) -> None:
        path = self._paths.pop(version, None)
        if path is not None:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        for version in list(self._paths):
            self.release(version)


class SharedMemoryReceiver:
    """Maps the sender's file; see ``protocol.Receiver``."""

    def fetch(self, locator: Locator) -> torch.Tensor:
        path = Path(locator.where["path"])
        if not path.exists():
            raise WeightPushError(
                f"{path} is not on this host; weights.transport=shared_memory needs trainer and "
                "generator on one host, gloo and filesystem cross hosts"
            )
        return _map(path, path.stat().st_size)

    def close(self) -> None:
        """Mappings end with the tensors that use them."""
