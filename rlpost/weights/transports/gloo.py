"""Payloads broadcast over TCP by a gloo group of its own: for generators on other hosts.

Owns one process group per push: rank 0 is the sender, and one worker of every other host is one
more rank, which writes the payload into a file that all workers of its host map. Workers on the
sender's host map what the sender wrote. Invariants: a host gets every byte once; each wait
has a deadline, so a dead or hung peer is an error within it, and who did not come is named; a new
group per push means that nothing of a failed push survives.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from rlpost.errors import WeightPushError
from rlpost.network import local_address, serve_store
from rlpost.weights.deadline import phase_deadline_s
from rlpost.weights.manifest import PushManifest
from rlpost.weights.transports.host_file import HostFile
from rlpost.weights.transports.meeting import Meeting, join
from rlpost.weights.transports.protocol import Locator, Seat
from rlpost.weights.transports.shared_memory import (
    SharedMemorySender,
    read_file,
    shared_memory_id,
)

BUCKET_BYTES = 32 << 20


def _group(where: dict[str, Any], rank: int, store: Any) -> Any:
    from torch.distributed import PrefixStore, ProcessGroupGloo

    options = ProcessGroupGloo._Options()
    options._timeout = timedelta(seconds=where["timeout_s"])
    # By itself gloo binds to what the host's own name resolves to, which need not lead there.
    options._devices = [ProcessGroupGloo.create_device(hostname=local_address(where["host"]))]
    world_size = 1 + len(where["receivers"])
    return ProcessGroupGloo(PrefixStore("group", store), rank, world_size, options)


def _words(error: RuntimeError) -> str:
    return str(error) if isinstance(error, WeightPushError) else f"gloo broadcast failed: {error}"


def _broadcast(group: Any, pages: torch.Tensor, size_bytes: int) -> None:
    """Move the payload in place, a bucket at a time: neither side has a second copy of any."""
    from torch.distributed import BroadcastOptions

    options = BroadcastOptions()
    options.rootRank = 0
    for start in range(0, size_bytes, BUCKET_BYTES):
        bucket = pages[start : min(start + BUCKET_BYTES, size_bytes)]
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
        own, rank = shared_memory_id(), 1
        receivers: dict[str, int] = {}  # shared memory -> rank of the worker that receives for it
        for seat in seats:
            if seat.memory == own:
                self._pages.keep(manifest.version)
            else:
                receivers.setdefault(seat.memory, rank)
            rank += seat.num_workers
        self._where = {
            "host": self._host,
            "port": self._store.port,
            "timeout_s": timeout_s,
            "run_id": self._pages.run_id,
            "memory": own,
            "path": self._pages.path(manifest.version),
            "receivers": receivers,
        }
        return Locator(
            transport="gloo", manifest=manifest.to_dict(), where=self._where, repeatable=False
        )

    def send(self) -> None:
        assert self._version is not None, "announce comes first"
        meeting = Meeting(self._store, timeout_s=self._where["timeout_s"])
        receivers = list(self._where["receivers"])
        if not receivers:
            return  # all sit here
        try:
            meeting.begin(receivers)
            group = _group(self._where, 0, self._store)
            _broadcast(group, self._pages.written(self._version), self._size_bytes)
        except RuntimeError as error:
            raise meeting.failed(receivers, _words(error)) from error

    def release(self, version: int) -> None:
        self._store = None
        if version != self._version:  # the newest can be announced again
            self._pages.release(version)

    def close(self) -> None:
        self._store = None
        self._pages.close()


class GlooReceiver:
    """A worker of a generator; see ``protocol.Receiver``.

    ``locator.where["rank"]`` is this worker's rank among all, set by the generator that owns it.

    Args:
        memory: the shared memory of this host; see ``shared_memory_id``.
        directory: where its files are.
    """

    def __init__(self, *, memory: str | None = None, directory: Path | None = None) -> None:
        self._memory = memory or shared_memory_id()
        self._directory = directory
        self._file: HostFile | None = None
        self.taken_bytes = 0  # that came over the network, in all pushes

    def fetch(self, locator: Locator) -> torch.Tensor:
        where = locator.where
        size_bytes = PushManifest.from_dict(locator.manifest).size_bytes
        if self._memory == where["memory"]:
            return read_file(Path(where["path"]))
        receivers = where["receivers"]
        if self._memory not in receivers:
            raise WeightPushError(f"nobody receives for {self._memory}: generators sit elsewhere")
        if self._file is None:
            self._file = HostFile(run_id=where["run_id"], directory=self._directory)
        try:
            store = join(where["host"], where["port"], timeout_s=where["timeout_s"])
            meeting = Meeting(store, timeout_s=where["timeout_s"])
            if receivers[self._memory] != where["rank"]:
                meeting.await_received(self._memory)
                return self._file.to_read(size_bytes)
            return self._receive(where, meeting, size_bytes)
        except RuntimeError as error:
            raise WeightPushError(_words(error)) from error

    def _receive(self, where: dict[str, Any], meeting: Meeting, size_bytes: int) -> torch.Tensor:
        assert self._file is not None
        try:
            pages = self._file.to_write(size_bytes)
            meeting.arrive(self._memory)
            rank = 1 + list(where["receivers"]).index(self._memory)
            _broadcast(_group(where, rank, meeting.store), pages, size_bytes)
        except RuntimeError as error:
            raise meeting.failed([self._memory], _words(error)) from error
        self.taken_bytes += size_bytes
        meeting.received(self._memory)
        return pages

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
