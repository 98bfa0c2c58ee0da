"""Pushed versions as directories of safetensors in the host's shared memory.

Owns the directories ``/dev/shm/rlpost-sglang-<name>/v<version>`` of one server. SGLang's own way to
load a checkpoint reads a directory, and a payload of ours is one file without names, so what has
arrived is verified and written once more. Invariants: nothing is written that was not verified; the
version that is served stays until its successor is committed, so there is always one to go back to;
what a server left that was killed is removed by the next one that looks.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

import torch

from rlpost.errors import WeightPushError
from rlpost.weights.manifest import PushManifest
from rlpost.weights.transports.filesystem import FilesystemReceiver
from rlpost.weights.transports.protocol import Locator, Receiver
from rlpost.weights.transports.shared_memory import SharedMemoryReceiver, shared_memory_directory

_PREFIX = "rlpost-sglang-"
RECEIVERS: dict[str, type[Receiver]] = {
    "shared_memory": SharedMemoryReceiver,
    "filesystem": FilesystemReceiver,
}


class Payloads:
    """The versions of one server: the one that is served, and one that is being pushed.

    Args:
        base: directory of the model that the server read at its start.
    """

    def __init__(self, base: Path) -> None:
        self._root: Path | None = None
        self._lock: int | None = None
        self._received: Path | None = None
        self.committed = base  # what to go back to

    @property
    def received(self) -> Path:
        """The directory of what arrived last."""
        if self._received is None:
            raise WeightPushError("no payload has arrived that could be loaded")
        return self._received

    def receive(self, locator: Locator) -> None:
        """Fetch, verify and write a payload.

        Raises:
            WeightPushError: it is incomplete, damaged or unreachable, or there is no room for it.
        """
        self.forget()
        kind = RECEIVERS.get(locator.transport)
        if kind is None:
            raise WeightPushError(
                f"an SGLang server cannot receive over {locator.transport}; set weights.transport "
                f"to one of {', '.join(RECEIVERS)}"
            )
        receiver = kind()
        try:
            manifest = PushManifest.from_dict(locator.manifest)
            (tensors,) = map(dict, receiver.buckets(locator))  # what is staged is one part
            self._received = self._written(tensors, version=manifest.version)
        finally:
            receiver.close()

    def _written(self, tensors: dict[str, torch.Tensor], *, version: int) -> Path:
        from safetensors.torch import save_file

        if self._root is None:
            self._root = self._made()
        size_bytes = sum(tensor.nbytes for tensor in tensors.values())
        free_bytes = shutil.disk_usage(self._root).free
        if free_bytes < size_bytes:
            raise WeightPushError(
                f"shared memory at {self._root.parent} has {free_bytes >> 20} MiB free, an SGLang "
                f"server needs {size_bytes >> 20} MiB for a version; enlarge it"
            )
        directory = self._root / f"v{version}"
        directory.mkdir()
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return directory

    def _made(self) -> Path:
        """Make the directory and hold it, while nobody else looks for unused ones."""
        where = shared_memory_directory()
        looking = os.open(where, os.O_RDONLY)
        try:
            fcntl.flock(looking, fcntl.LOCK_EX)
            remove_unused()
            root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=where))
            self._lock = os.open(root, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_SH)  # it is in use
        finally:
            os.close(looking)
        return root

    def commit(self) -> None:
        """Go back to what arrived last from now on."""
        before, self.committed = self.committed, self.received
        self._received = None
        self._remove(before)

    def forget(self) -> None:
        """Remove what arrived and was not committed."""
        received, self._received = self._received, None
        if received is not None:
            self._remove(received)

    def _remove(self, directory: Path) -> None:
        if directory.parent == self._root:  # never the model that the server read at its start
            shutil.rmtree(directory, ignore_errors=True)

    def close(self) -> None:
        """Remove everything."""
        root, self._root = self._root, None
        if root is not None:
            shutil.rmtree(root, ignore_errors=True)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def remove_unused() -> None:
    """Remove the directories that no process holds: of servers whose actor was killed."""
    for path in shared_memory_directory().glob(f"{_PREFIX}*"):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:  # gone meanwhile, or another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:  # it is in use
            continue
        finally:
            os.close(descriptor)
