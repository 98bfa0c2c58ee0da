"""The receiving end of a stream, in a generator's worker.

Owns this worker's role in each push: a member of the sender's group, which receives for its host
and lets others read, or one that reads. Refuses to own kernels. Invariants: what is yielded was
verified by this very process; while a bucket is used the next one arrives in the other slot; a
group in which anything failed is never used again.
"""

import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from rlpost.errors import PushEnded, WeightPushError
from rlpost.weights.buckets import Bucket, divide, slot_bytes, verify, was_given_up
from rlpost.weights.deadline import RECEIVER_PHASES, Deadline
from rlpost.weights.manifest import PushManifest, Tensors
from rlpost.weights.transports.host_pages import HostPages
from rlpost.weights.transports.meeting import Meeting, Onlooker, join
from rlpost.weights.transports.protocol import Locator
from rlpost.weights.transports.ring import RingReader, RingWriter, ring_path
from rlpost.weights.transports.route import Route
from rlpost.weights.transports.shared_memory import shared_memory_id
from rlpost.weights.transports.stream_sender import formed, in_words
from rlpost.weights.transports.watch import watched
from rlpost.weights.transports.wire import Wire, WireGroup, await_work


class StreamReceiver:
    """See ``protocol.Receiver``. ``locator.where["rank"]`` is this worker's rank among all.

    Args:
        wire: the sender's.
        memory: the shared memory of this host; see ``shared_memory_id``.
        directory: where its files are.
        pages: the mappings of this process; None: it has no device.
        clock: seconds.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        memory: str | None = None,
        directory: Path | None = None,
        pages: HostPages | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wire = wire
        self._pages, self._clock = pages or HostPages(), clock
        self._memory = memory or shared_memory_id()
        self._directory = directory
        self._ring: RingWriter | None = None
        self._slots: list[torch.Tensor] = []
        self._store: Any = None
        self._watched: socket.socket | None = None
        self._served_at: tuple[str, int] | None = None  # where that store is
        self._group: WireGroup | None = None
        self._group_name = ""
        self._process = uuid.uuid4().hex
        self.taken_bytes = 0  # that came over the network, in all pushes

    def buckets(self, locator: Locator) -> Iterator[Tensors]:
        route = Route.of(locator.where)
        manifest = PushManifest.from_dict(locator.manifest)
        planned = divide(manifest, most_bytes=route.bucket_bytes)
        place = route.member_of(route.rank)
        # A sender that lives has ended the push before.
        deadline = Deadline(RECEIVER_PHASES * route.timeout_s, clock=self._clock)
        try:
            if place is not None:
                yield from self._received(route, planned, place, deadline)
            else:
                yield from self._read(route, planned, deadline)
        except WeightPushError:
            raise
        except RuntimeError as error:
            raise WeightPushError(in_words(self._wire, error)) from error

    # -- a worker that reads what another one of its host received, or what the sender packed --

    def _read(self, route: Route, planned: list[Bucket], deadline: Deadline) -> Iterator[Tensors]:
        readers = route.readers(self._memory)
        if route.rank not in readers:
            raise WeightPushError(
                f"nobody receives for {self._memory.partition(' ')[0]}: generators sit elsewhere"
            )
        beside = self._memory == route.memory
        path = Path(route.ring) if beside else self._received_path(route)
        number = readers.index(route.rank)
        ring = RingReader(path, reader=number, deadline=deadline, pages=self._pages)
        sender = Onlooker(route.host, route.port, push=route.push, timeout_s=route.timeout_s)
        try:
            in_file = route.handle is None
            size_bytes = slot_bytes(planned) if in_file else 0
            slots = ring.begin(route.push, slot_bytes=size_bytes, look=sender.look)
            if route.handle is not None:
                slots = self._wire.imported(route.handle)
            for bucket in planned:
                deadline.look(f"bucket {bucket.number} of {len(planned)}")
                ring.await_bucket(bucket.number)
                yield self._verified(bucket, slots, route)
                self._settle()
                ring.take(bucket.number)
        finally:
            self._settle()
            ring.close()

    def _settle(self) -> None:
        """Wait until the device has read what it was told to: a slot may be filled again then."""
        self._wire.settle()
        self._pages.settle()

    def _verified(self, bucket: Bucket, slots: list[torch.Tensor], route: Route) -> Tensors:
        slot = slots[bucket.number % 2]
        return verify(bucket, slot, push=route.push, checksum=self._wire.checksum)

    # -- a member of the group -------------------------------------------------------------

    def _received(
        self, route: Route, planned: list[Bucket], place: tuple[str, int], deadline: Deadline
    ) -> Iterator[Tensors]:
        """Receive each bucket into one slot while what lies in the other is used and read."""
        name, number = place
        done, why = False, "whoever receives for this host could not load a bucket"
        ring = self._own_ring(route)
        try:
            meeting = self._met(route)
            slots = self._own_slots(ring, route, slot_bytes(planned))
            group = self._joined(meeting, route, name, number)
            begin = self._receives(group, ring, slots, planned, deadline)
            work = begin(0)
            for bucket in planned:
                deadline.look(f"bucket {bucket.number} of {len(planned)}")
                await_work(group, work, look=lambda: self._look(meeting, deadline))
                if was_given_up(bucket, slots[bucket.number % 2]):
                    meeting.look()  # it says why
                    raise PushEnded("the sender could not fill a bucket")
                self.taken_bytes += bucket.size_bytes
                self._settle()
                ring.fill(bucket.number)
                work = begin(bucket.number + 1)
                yield self._verified(bucket, slots, route)
            self._settle()
            ring.await_taken(len(planned) - 1, deadline=deadline)
            done = True
        except RuntimeError as error:
            why = in_words(self._wire, error)
            raise
        finally:
            if not done:
                self._tell(ring, route, name, why)

    @staticmethod
    def _look(meeting: Meeting, deadline: Deadline) -> None:
        meeting.look()
        deadline.look("the sender")

    def _tell(self, ring: RingWriter, route: Route, name: str, why: str) -> None:
        """Tell everybody who waits for this worker that it failed, whatever the reason."""
        ring.fail(why)
        if self._store is not None:
            Meeting(self._store, push=route.push, timeout_s=route.timeout_s).failed([name], why)
        self._end_group()

    def _receives(
        self,
        group: WireGroup,
        ring: RingWriter,
        slots: list[torch.Tensor],
        planned: list[Bucket],
        deadline: Deadline,
    ) -> Callable[[int], Any]:
        def begin(number: int) -> Any:
            if number == len(planned):
                return None
            ring.await_taken(number - 2, deadline=deadline)
            return group.broadcast(slots[number % 2][: planned[number].sent_bytes])

        return begin

    def _own_ring(self, route: Route) -> RingWriter:
        if self._ring is None:
            path = self._received_path(route)
            self._ring = RingWriter(path, pages=self._pages)
        return self._ring

    def _own_slots(self, ring: RingWriter, route: Route, size_bytes: int) -> list[torch.Tensor]:
        num_readers = len(route.readers(self._memory))
        shared = ring.begin(
            route.push,
            num_readers=num_readers,
            slot_bytes=size_bytes,
        )
        if shared:
            self._slots = []
            return shared
        if not self._slots or self._slots[0].numel() != size_bytes:
            self._slots = []  # the old ones go first
            self._slots = self._wire.slots(size_bytes)
        return self._slots

    def _received_path(self, route: Route) -> Path:
        return ring_path(route.run_id, sends=False, directory=self._directory)

    def _met(self, route: Route) -> Meeting:
        """Return the meeting of a push, in the store that its sender serves."""
        if self._served_at != (route.host, route.port):
            self._end_group()
            self._store = join(route.host, route.port, timeout_s=route.timeout_s)
            self._watched = watched(
                route.host, route.watch_port, process=self._process, timeout_s=route.timeout_s
            )
            self._served_at = (route.host, route.port)
        return Meeting(self._store, push=route.push, timeout_s=route.timeout_s)

    def _joined(self, meeting: Meeting, route: Route, name: str, number: int) -> WireGroup:
        """Return the group, formed anew unless it is the one that this process is in."""
        group = meeting.arrive(name, process=self._process)
        if self._group is None or self._group_name != group:
            if self._group is not None:
                self._group.drop()
            self._group = formed(
                self._wire, self._store, route, name=group, number=number, host=route.host
            )
            self._group_name = group
        return self._group

    def _end_group(self) -> None:
        """Leave the group, so that the sender forms another one.

        What is under way in it may reach its slots for a while yet, so they are never used again:
        it would change a bucket that was verified.
        """
        if self._group is not None:
            self._group.drop()
        self._group, self._group_name, self._process = None, "", uuid.uuid4().hex
        self._store = self._served_at = None
        if self._watched is not None:
            self._watched.close()
            self._watched = None
        if self._ring is not None:
            self._ring.close()
        self._slots = []

    def close(self) -> None:
        self._end_group()
        self._wire.close()
        self._pages.close()
