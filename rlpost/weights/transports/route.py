"""How one push over a stream reaches every worker.

Owns who takes part in which role, for one sender and for several. Refuses to own how bytes travel
(wire.py) and when (stream_sender.py). Invariant: each worker that receives has one sender, or the
push is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlpost.errors import WeightPushError
from rlpost.weights.transports.protocol import Locator, Seat


@dataclass(frozen=True, kw_only=True)
class Route:
    """How one push reaches everybody; the ``where`` of its locator, as plain data.

    Ranks are those of workers among all who receive, from 1 on.
    """

    push: int  # unlike that of any other push
    host: str  # where the sender's store is
    port: int
    watch_port: int  # see watch.py
    timeout_s: float  # of sending it all
    run_id: str
    memory: str  # of the sender's host
    ring: str  # the file that workers on the sender's host read
    bucket_bytes: int
    members: dict[str, int]  # of the group, after the sender -> rank of the worker
    ranks: dict[str, list[int]]  # memory of a host -> ranks of its workers
    handle: str | None = None  # of the sender's slots, where those of its ring are no file's
    rank: int = 0  # of the worker that reads this
    others: list[dict[str, Any]] = field(default_factory=list)  # routes of the other senders

    @classmethod
    def of(cls, where: dict[str, Any]) -> "Route":
        """Return the route by which the worker ``where["rank"]`` receives."""
        first = cls(**where)
        routes = [first, *(cls(**other) for other in first.others)]
        mine = (each for each in routes if first.rank in each.receivers)
        return replace(next(mine, first), rank=first.rank)

    @property
    def receivers(self) -> list[int]:
        """Ranks of all who receive from this sender."""
        return [rank for ranks in self.ranks.values() for rank in ranks]

    def readers(self, memory: str) -> list[int]:
        """Return the ranks of workers that read the ring of their host."""
        joined = set(self.members.values())
        return [rank for rank in self.ranks.get(memory, ()) if rank not in joined]

    @property
    def hosts(self) -> list[str]:
        """The names of those that have a member of the group."""
        return sorted({name.partition(" ")[0] for name in self.members})

    def member_of(self, rank: int) -> tuple[str, int] | None:
        """Return under which name and number in the group a worker joins; None: it reads."""
        for number, (name, joined) in enumerate(self.members.items(), start=1):
            if joined == rank:
                return name, number
        return None


def route_to(
    seats: Sequence[Seat], *, own: str, every_worker_joins: bool, gpu: str | None = None
) -> dict[str, Any]:
    """Return ``members`` and ``ranks`` of a ``Route`` from a sender to ``seats``.

    Args:
        seats: of all who receive.
        own: memory of the sender's host.
        every_worker_joins: the group, else one worker of each other host does.
        gpu: of the sender, if it sends to workers on this one alone.
    """
    ranks: dict[str, list[int]] = {}
    members: dict[str, int] = {}
    for rank, (memory, its_gpu) in enumerate(_workers(seats), start=1):
        if gpu not in (None, its_gpu):
            continue
        ranks.setdefault(memory, []).append(rank)
        if every_worker_joins:
            members[f"{memory} {rank}"] = rank
        elif memory != own:
            members.setdefault(memory, rank)
    return {"members": members, "ranks": ranks}


def _workers(seats: Sequence[Seat]) -> list[tuple[str, str | None]]:
    """Return the memory and the GPU of every worker, in order of ranks."""
    return [(seat.memory, gpu) for seat in seats for gpu in seat.gpus or [None] * seat.num_workers]


def joined(locators: Sequence[Locator | None], *, seats: Sequence[Seat]) -> Locator | None:
    """Return the one locator of what ranks of the trainer announced.

    Args:
        locators: of each rank; None: it does not send.
        seats: of all who receive.

    Raises:
        WeightPushError: nobody sends to a worker; names its host and its GPU.
    """
    found = [locator for locator in locators if locator is not None]
    if not found:
        return None
    first, *others = found
    if others:
        where = {**first.where, "others": [other.where for other in others]}
        first = replace(first, where=where)
    if "ranks" in first.where:
        _refuse_unreached([Route(**each.where) for each in found], seats)
    return first


def _refuse_unreached(routes: Sequence[Route], seats: Sequence[Seat]) -> None:
    reached = {rank for route in routes for rank in route.receivers}
    for rank, (memory, gpu) in enumerate(_workers(seats), start=1):
        if rank not in reached:
            raise WeightPushError(
                f"no rank of the trainer is on GPU {gpu} of {memory.partition(' ')[0]}, where a "
                "generator receives; weights.transport=cuda_ipc needs one there: use "
                "cluster.placement=colocated, or weights.transport=auto"
            )
