"""Payloads broadcast over TCP by a gloo group of its own: for generators on other hosts.

Owns one process group per push: rank 0 is the sender, every generator worker is one more
rank. Invariant: every wait has the group's timeout, so a dead or hung peer is an error
within ``timeout_s``; a new group per push means that nothing of a failed push survives.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch

from rlpost.errors import WeightPushError
from rlpost.network import local_address, serve_store
from rlpost.weights.deadline import phase_deadline_s
from rlpost.weights.manifest import PushManifest
from rlpost.weights.transports.protocol import Locator, Seat
from rlpost.weights.transports.shared_memory import SharedMemorySender, shared_memory_id

BUCKET_BYTES = 32 << 20


def _group(where: dict[str, Any], rank: int, store: Any) -> Any:
    from torch.distributed import PrefixStore, ProcessGroupGloo

    options = ProcessGroupGloo._Options()
    options._timeout = timedelta(seconds=where["timeout_s"])
    # By itself gloo binds to what the host's own name resolves to, which need not lead there.
    options._devices = [ProcessGroupGloo.create_device(hostname=local_address(where["host"]))]
    prefixed = PrefixStore(f"push-{where['version']}", store)
    return ProcessGroupGloo(prefixed, rank, where["world_size"], options)


def _broadcast(group: Any, buffer: torch.Tensor, size_bytes: int) -> None:
    from torch.distributed import BroadcastOptions

    options = BroadcastOptions()
    options.rootRank = 0
    for start in range(0, size_bytes, BUCKET_BYTES):
        bucket = buffer[start : min(start + BUCKET_BYTES, size_bytes)]
        group.broadcast([bucket], options).wait()


class GlooSender:
    """Rank 0 of each push's group; see ``protocol.Sender``.

    Args:
        host: address under which receivers reach this process.
        timeout_s: deadline of every wait; None: by the size of each payload.
        pages: where payloads are written.
    """

    def __init__(self, *, host: str, timeout_s: float | None, pages: SharedMemorySender) -> None:
        self._host = host
        self._timeout_s = timeout_s
        self._pages = pages
        self._version: int | None = None  # announced last
        self._store: Any = None
        self._where: dict[str, Any] = {}
        self._size_bytes = 0

    def buffer(self, size_bytes: int, *, version: int) -> torch.Tensor:
        return self._pages.buffer(size_bytes, version=version)

    def announce(self, manifest: PushManifest, *, seats: Sequence[Seat]) -> Locator:
        timeout_s = phase_deadline_s(self._timeout_s, manifest.size_bytes)
        self._store = serve_store(self._host, timeout=timedelta(seconds=timeout_s))
        self._version, self._size_bytes = manifest.version, manifest.size_bytes
        if any(seat.memory == shared_memory_id() for seat in seats):
            self._pages.keep(manifest.version)
        self._where = {
            "host": self._host,
            "port": self._store.port,
            "version": manifest.version,
            "world_size": 1 + sum(seat.num_workers for seat in seats),
            "timeout_s": timeout_s,
        }
        return Locator(
            transport="gloo", manifest=manifest.to_dict(), where=self._where, repeatable=False
        )

    def send(self) -> None:
        assert self._version is not None, "announce comes first"
        try:
            group = _group(self._where, 0, self._store)
            _broadcast(group, self._pages.written(self._version), self._size_bytes)
        except RuntimeError as error:
            raise WeightPushError(f"gloo broadcast failed: {error}") from error

    def release(self, version: int) -> None:
        self._store = None
        if version != self._version:  # the newest can be announced again
            self._pages.release(version)

    def close(self) -> None:
        self._store = None
        self._pages.close()


class GlooReceiver:
    """A later rank of each push's group; see ``protocol.Receiver``.

    ``locator.where["rank"]`` is this worker's rank, set by the generator that owns it.
    """

    def fetch(self, locator: Locator) -> torch.Tensor:
        from torch.distributed import TCPStore

        where = locator.where
        manifest = PushManifest.from_dict(locator.manifest)
        buffer = torch.empty(manifest.size_bytes, dtype=torch.uint8)
        try:
            store = TCPStore(
                where["host"],
                where["port"],
                is_master=False,
                timeout=timedelta(seconds=where["timeout_s"]),
            )
            _broadcast(_group(where, where["rank"], store), buffer, manifest.size_bytes)
        except RuntimeError as error:
            raise WeightPushError(f"gloo broadcast failed: {error}") from error
        return buffer

    def close(self) -> None:
        """Each push opens and drops its own group."""
