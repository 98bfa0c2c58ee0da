"""The sending end of a stream: gather, pack and send, one bucket after the other.

Owns who takes part in which role, and two buckets. Refuses to own how they travel (wire.py) and
which weights they hold. Invariants: there are never more than two buckets, whatever the model's
size; a bucket is packed anew only after everybody has taken it; a push that goes on for too long
is ended, whoever delays it; when anything fails, everybody who waits is told, and no group outlives
it.

Workers on other hosts get buckets from the group that the sender leads; workers on its own host
from its ring, and those whose host has a member of the group from that member's ring.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from rlpost.errors import WeightPushError
from rlpost.network import serve_store
from rlpost.weights.buckets import Bucket, NamedTensors, divide, give_up, pack, seal, slot_bytes
from rlpost.weights.deadline import Deadline, phase_deadline_s
from rlpost.weights.manifest import PushManifest
from rlpost.weights.transports.host_pages import HostPages
from rlpost.weights.transports.meeting import Groups, Meeting
from rlpost.weights.transports.protocol import Locator, Seat
from rlpost.weights.transports.ring import RingWriter, ring_path
from rlpost.weights.transports.route import Route, route_to
from rlpost.weights.transports.shared_memory import shared_memory_id
from rlpost.weights.transports.watch import Watch
from rlpost.weights.transports.wire import Wire, WireGroup, await_work

BUCKET_BYTES = 64 << 20


@dataclass
class _Announced:
    """A push that was announced."""

    route: Route
    buckets: list[Bucket]
    deadline: Deadline  # of sending it; anew when that begins
    works: list[Any] = field(default_factory=list)  # of the group, a bucket each


class StreamSender:
    """See ``protocol.StreamingSender``.

    Args:
        wire: how buckets travel.
        run_id: names the run among all of a host.
        host: address under which receivers reach this process.
        timeout_s: deadline of sending a payload; None: by its size.
        bucket_bytes: most bytes of a bucket, unless one tensor has more.
        directory: the host's shared memory.
        pages: the mappings of this process; None: it has no device.
        clock: seconds.
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
        pages: HostPages | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wire, self._run_id, self._host = wire, run_id, host
        self._timeout_s, self._bucket_bytes = timeout_s, bucket_bytes
        self._pages, self._clock = pages or HostPages(), clock
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
        parts = route_to(
            seats, own=own, every_worker_joins=self._wire.every_worker_joins, gpu=self._wire.gpu
        )
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
        if route.receivers:
            route = replace(route, handle=self._prepare(route, slot_bytes(buckets)))
        self._announced = _Announced(route, buckets, self._deadline(route))
        return Locator(
            transport=self._wire.name,
            manifest=manifest.to_dict(),
            where=asdict(route),
            repeatable=False,
        )

    def _deadline(self, route: Route) -> Deadline:
        return Deadline(route.timeout_s, clock=self._clock)

    def _prepare(self, route: Route, size_bytes: int) -> str | None:
        """Have two slots and, if somebody here reads them, a ring around them."""
        if self._ring is None:
            self._ring = RingWriter(self._path, pages=self._pages)
        shared = self._ring.begin(
            route.push,
            num_readers=len(route.readers(route.memory)),
            slot_bytes=0 if self._wire.exports else size_bytes,
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
        pushed.deadline = self._deadline(pushed.route)
        done, why = False, "the sender failed"
        if (
            not pushed.route.receivers
        ):  # they sit on GPUs of other ranks, which gather with this one
            deque(tensors, maxlen=0)
            return
        try:
            group = self._join(pushed.route)
            for bucket in pushed.buckets:
                self._send_bucket(bucket, tensors, group, pushed)
            if (left := next(tensors, None)) is not None:
                raise WeightPushError(f"{left[0]} was not announced")
            self._await_works(group, pushed, pushed.works[-2:])
            self._taken(len(pushed.buckets) - 1, pushed)
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
        pushed.deadline.look(f"bucket {number} of {len(pushed.buckets)}")
        self._await_works(group, pushed, pushed.works[-2:-1])
        self._taken(number - 2, pushed)
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

    def _taken(self, number: int, pushed: _Announced) -> None:
        if self._ring is not None:
            self._ring.await_taken(number, deadline=pushed.deadline)

    def _await_works(self, group: WireGroup | None, pushed: _Announced, works: list[Any]) -> None:
        if group is not None:
            meeting = self._meeting(pushed.route)
            for work in works:
                await_work(group, work, look=lambda: self._look(meeting, pushed))

    def _look(self, meeting: Meeting, pushed: _Announced) -> None:
        assert self._watch is not None, "announce comes first"
        meeting.look()  # who leaves has said why
        self._watch.look(self._processes)
        pushed.deadline.look(f"other hosts ({', '.join(pushed.route.hosts)})")

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
        self._pages.close()


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
