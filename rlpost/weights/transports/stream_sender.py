"""The sending end of a stream: gather, pack and send, one bucket after the other.

Owns who takes part in which role, and two buckets. Refuses to own how they travel (wire.py) and
which weights they hold. Invariants: there are never more than two buckets, whatever the model's
size; a bucket is packed anew only after everybody has taken it; when anything fails, everybody who
waits is told, and no group outlives it.

Workers on other hosts get buckets from the group that the sender leads; workers on its own host
from its ring, and those whose host has a member of the group from that member's ring.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from rlpost.errors import WeightPushError
from rlpost.network import serve_store
from rlpost.weights.buckets import Bucket, NamedTensors, divide, give_up, pack, seal, slot_bytes
from rlpost.weights.deadline import phase_deadline_s
from rlpost.weights.manifest import PushManifest
from rlpost.weights.transports.meeting import Groups, Meeting
from rlpost.weights.transports.protocol import Locator, Seat
from rlpost.weights.transports.ring import RingWriter, ring_path
from rlpost.weights.transports.shared_memory import shared_memory_id
from rlpost.weights.transports.watch import Watch
from rlpost.weights.transports.wire import Wire, WireGroup

BUCKET_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Route:
    """How one push reaches everybody; the ``where`` of its locator, as plain data.

    Ranks are those of workers among all who receive, from 1 on.
    """

    push: int  # unlike that of any other push
    host: str  # where the sender's store is
    port: int
    watch_port: int  # see watch.py
    timeout_s: float
    run_id: str
    memory: str  # of the sender's host
    ring: str  # the file that workers on the sender's host read
    bucket_bytes: int
    members: dict[str, int]  # of the group, after the sender -> rank of the worker
    ranks: dict[str, list[int]]  # memory of a host -> ranks of its workers
    handle: str | None = None  # of the sender's slots, where those of its ring are no file's
    rank: int = 0  # of the worker that reads this

    def readers(self, memory: str) -> list[int]:
        """Return the ranks of workers that read the ring of their host."""
        joined = set(self.members.values())
        return [rank for rank in self.ranks.get(memory, ()) if rank not in joined]

    def member_of(self, rank: int) -> tuple[str, int] | None:
        """Return under which name and number in the group a worker joins; None: it reads."""
        for number, (name, joined) in enumerate(self.members.items(), start=1):
            if joined == rank:
                return name, number
        return None


def route_to(seats: Sequence[Seat], *, own: str, wire: Wire) -> dict[str, Any]:
    """Return ``members`` and ``ranks`` of a ``Route`` from a sender on ``own`` to ``seats``."""
    ranks: dict[str, list[int]] = {}
    members: dict[str, int] = {}
    first = 1
    for seat in seats:
        for rank in range(first, first + seat.num_workers):
            ranks.setdefault(seat.memory, []).append(rank)
            if wire.every_worker_joins:
                members[f"{seat.memory} {rank}"] = rank
            elif seat.memory != own:
                members.setdefault(seat.memory, rank)
        first += seat.num_workers
    return {"members": members, "ranks": ranks}


@dataclass
class _Announced:
    """A push that was announced."""

    route: Route
    buckets: list[Bucket]
    works: list[Any] = field(default_factory=list)  # of the group, a bucket each


class StreamSender:
    """See ``protocol.StreamingSender``.

    Args:
        wire: how buckets travel.
        run_id: names the run among all of a host.
        host: address under which receivers reach this process.
        timeout_s: deadline of every wait; None: by the size of each payload.
        bucket_bytes: most bytes of a bucket, unless one tensor has more.
        directory: the host's shared memory.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        run_id: str,
        host: str,
        timeout_s: float | None,
        bucket_bytes: int = BUCKET_BYTES,
        directory: Path | None = None,
    ) -> None:
        self._wire, self._run_id, self._host = wire, run_id, host
        self._timeout_s, self._bucket_bytes = timeout_s, bucket_bytes
        self._path = ring_path(run_id, sends=True, directory=directory)
        self._path.unlink(missing_ok=True)  # of an earlier trainer of this run, which was killed
        self._numbers = itertools.count(time.time_ns())
        self._store: Any = None
        self._watch: Watch | None = None
        self._processes: dict[str, str] = {}  # that came last, by member
        self._groups, self._group = Groups(), None
        self._ring: RingWriter | None = None
        self._slots: list[torch.Tensor] = []
        self._announced: _Announced | None = None

    def announce(self, manifest: PushManifest, *, seats: Sequence[Seat]) -> Locator:
        timeout_s = phase_deadline_s(self._timeout_s, manifest.size_bytes)
        if self._store is None:
            self._store = serve_store(self._host, timeout=timedelta(seconds=timeout_s))
            self._watch = Watch(self._host)
        if self._announced is not None:
            before = self._announced.route
            self._meeting(before).forget(list(before.members))
        buckets = divide(manifest, most_bytes=self._bucket_bytes)
        own, push = shared_memory_id(), next(self._numbers)
        parts = route_to(seats, own=own, wire=self._wire)
        route = Route(
            push=push,
            host=self._host,
            port=self._store.port,
            watch_port=self._watch.port,
            timeout_s=timeout_s,
            run_id=self._run_id,
            memory=own,
            ring=str(self._path),
            bucket_bytes=self._bucket_bytes,
            **parts,
        )
        handle = self._prepare(route, slot_bytes(buckets))
        route = Route(**{**asdict(route), "handle": handle})
        self._announced = _Announced(route, buckets)
        return Locator(
            transport=self._wire.name,
            manifest=manifest.to_dict(),
            where=asdict(route),
            repeatable=False,
        )

    def _prepare(self, route: Route, size_bytes: int) -> str | None:
        """Have two slots and, if somebody here reads them, a ring around them."""
        if self._ring is None:
            self._ring = RingWriter(self._path)
        shared = self._ring.begin(
            route.push,
            num_readers=len(route.readers(route.memory)),
            slot_bytes=0 if self._wire.exports else size_bytes,
            timeout_s=route.timeout_s,
        )
        if shared and not self._wire.exports:
            self._slots = shared
        elif not self._slots or self._slots[0].numel() != size_bytes:
            self._slots = []  # the old ones go first
            self._slots = self._wire.slots(size_bytes)
        return self._wire.exported(self._slots) if shared and self._wire.exports else None

    def send(self, tensors: NamedTensors) -> None:
        assert self._announced is not None, "announce comes first"
        pushed = self._announced
        done, why = False, "the sender failed"
        try:
            group = self._join(pushed.route)
            for bucket in pushed.buckets:
                self._send_bucket(bucket, tensors, group, pushed)
            if (left := next(tensors, None)) is not None:
                raise WeightPushError(f"{left[0]} was not announced")
            self._await_works(group, pushed, pushed.works[-2:])
            self._taken(len(pushed.buckets) - 1)
            done = True
        except RuntimeError as error:
            why = in_words(self._wire, error)
            raise WeightPushError(why) from error
        finally:
            if not done:
                self._tell(pushed.route, why)

    def _tell(self, route: Route, why: str) -> None:
        """Tell everybody who waits that the push is over, whatever the reason."""
        if self._ring is not None:
            self._ring.fail(why)
        self._meeting(route).failed(list(route.members), why)
        self._end_group()

    def _send_bucket(
        self, bucket: Bucket, tensors: NamedTensors, group: WireGroup | None, pushed: _Announced
    ) -> None:
        number, push = bucket.number, pushed.route.push
        slot = self._slots[number % 2]
        self._await_works(group, pushed, pushed.works[-2:-1])
        self._taken(number - 2)
        failure = None
        try:
            pack(bucket, tensors, slot)
            seal(bucket, slot, push=push, checksum=self._wire.checksum)
        except RuntimeError as error:
            # The group waits for this bucket: it gets one that says so, and nobody loads it.
            failure = error
            why = in_words(self._wire, error)
            self._meeting(pushed.route).failed(list(pushed.route.members), why)
            give_up(bucket, slot, push=push)
        if group is not None:
            pushed.works.append(group.broadcast(slot[: bucket.sent_bytes]))
        if failure is not None:
            self._await_works(group, pushed, pushed.works[-2:])
            raise failure
        self._wire.settle()
        if self._ring is not None:
            self._ring.fill(number)

    def _taken(self, number: int) -> None:
        if self._ring is not None:
            self._ring.await_taken(number)

    def _await_works(self, group: WireGroup | None, pushed: _Announced, works: list[Any]) -> None:
        if group is not None:
            meeting = self._meeting(pushed.route)
            for work in works:
                group.wait(work, look=lambda: self._look(meeting))

    def _look(self, meeting: Meeting) -> None:
        assert self._watch is not None, "announce comes first"
        self._watch.look(self._processes)
        meeting.look()

    def _join(self, route: Route) -> WireGroup | None:
        if not route.members:
            return None
        assert self._watch is not None, "announce comes first"
        meeting = self._meeting(route)
        self._processes = meeting.gather(list(route.members))
        self._watch.keep(self._processes)
        name, forms = self._groups.name_for(self._processes)
        meeting.begin(name)
        if forms:
            self._drop_group()
            self._group = formed(
                self._wire, self._store, route, name=name, number=0, host=self._host
            )
        return self._group

    def _end_group(self) -> None:
        self._groups.spoil()
        self._drop_group()

    def _drop_group(self) -> None:
        if self._group is not None:
            self._group.drop()
            self._group = None

    def _meeting(self, route: Route) -> Meeting:
        return Meeting(self._store, push=route.push, timeout_s=route.timeout_s)

    def close(self) -> None:
        self._end_group()
        if self._ring is not None:
            self._ring.close()
        if self._watch is not None:
            self._watch.close()
        self._slots, self._store, self._watch = [], None, None
        self._wire.close()


def formed(wire: Wire, store: Any, route: Route, *, name: str, number: int, host: str) -> WireGroup:
    """Form the group of this name as its rank ``number``; collective."""
    from torch.distributed import PrefixStore

    return wire.group(
        PrefixStore(name, store),
        host=host,
        rank=number,
        num_ranks=1 + len(route.members),
        timeout_s=route.timeout_s,
    )


def in_words(wire: Wire, error: RuntimeError) -> str:
    """Return why a stream failed."""
    if isinstance(error, WeightPushError):
        return str(error)
    return f"{wire.name} broadcast failed: {error}"
