"""The stage of every admitted group: running, ready or in training.

Owns the three sets and the moves between them. Refuses to own the decisions (staleness.py)
and what a group is. Invariants: a uid is in exactly one set; the sets together hold at most
``capacity`` groups. Pure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Running:
    """A group that is being generated or judged."""

    uid: str
    order: int  # place in the order of admission
    version: int  # oldest version that may have sampled any of its tokens


@dataclass(frozen=True, kw_only=True)
class Ready(Generic[T]):
    """A finished group."""

    uid: str
    order: int
    version: int  # oldest that sampled any of its tokens
    group: T


class GroupBuffer(Generic[T]):
    """Example::

    buffer = GroupBuffer(capacity=32)
    buffer.start("0:7", version=1)
    buffer.finish("0:7", group, version=1)
    taken = buffer.reserve(["0:7"])
    buffer.commit()
    """

    def __init__(self, *, capacity: int) -> None:
        self.capacity = capacity
        self.next_order = 0
        self._running: dict[str, Running] = {}
        self._ready: dict[str, Ready[T]] = {}
        self._training: dict[str, Ready[T]] = {}

    @property
    def running(self) -> Sequence[Running]:
        return tuple(self._running.values())

    @property
    def ready(self) -> Sequence[Ready[T]]:
        return tuple(self._ready.values())

    @property
    def training(self) -> Sequence[Ready[T]]:
        return tuple(self._training.values())

    def __len__(self) -> int:
        return len(self._running) + len(self._ready) + len(self._training)

    def __contains__(self, uid: str) -> bool:
        return uid in self._running or uid in self._ready or uid in self._training

    def start(self, uid: str, *, version: int) -> None:
        """Admit a group as the last in order."""
        assert uid not in self, f"{uid} was admitted before"
        assert len(self) < self.capacity, f"{len(self)} groups, capacity {self.capacity}"
        self._running[uid] = Running(uid=uid, order=self.next_order, version=version)
        self.next_order += 1

    def restart(self, uid: str, *, version: int) -> None:
        """Note that its generation begins again, with weights ``version``."""
        entry = self._running[uid]
        self._running[uid] = Running(uid=uid, order=entry.order, version=version)

    def finish(self, uid: str, group: T, *, version: int) -> None:
        """Move a running group to the ready ones."""
        entry = self._running.pop(uid)
        self._ready[uid] = Ready(uid=uid, order=entry.order, version=version, group=group)

    def discard(self, uid: str) -> None:
        """Forget a running or ready group."""
        if self._running.pop(uid, None) is None:
            del self._ready[uid]

    def reserve(self, uids: Iterable[str]) -> list[T]:
        """Move ready groups to the step in progress and return them, in the order of ``uids``."""
        assert not self._training, "the last step's groups were not committed"
        self._training = {uid: self._ready.pop(uid) for uid in uids}
        return [entry.group for entry in self._training.values()]

    def commit(self) -> None:
        """Forget the groups of the step, which is done."""
        self._training = {}

    def restore(self, entries: Iterable[Ready[T]]) -> None:
        """Replace all groups by the ready groups of a checkpoint."""
        self._running, self._training = {}, {}
        self._ready = {entry.uid: entry for entry in entries}
        self.next_order = 1 + max((e.order for e in self._ready.values()), default=-1)
