"""Ranks of one group in actors: one call of the driver is one call on every rank.

Owns the fan-out. Refuses to know what the ranks do (trainers.py, critic.py). Invariant: the
group fails as a whole when one rank fails.
"""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

from rlpost.cluster.handle import Handle
from rlpost.cluster.session import Device, Session, free_port
from rlpost.training.packing import PackedBatches


def rendezvous_address() -> tuple[str, int]:
    """This host's name and a free port; called in rank 0's process."""
    return socket.gethostbyname(socket.gethostname()), free_port()


class Ranks:
    """The driver's end of the actors of one group, in rank order."""

    def __init__(self, handles: Sequence[Handle]) -> None:
        self._handles = handles

    def __len__(self) -> int:
        return len(self._handles)

    async def first(self, method: str, *args: Any) -> Any:
        """Call rank 0 alone; only for what is not collective."""
        return await self._handles[0].call(method, *args)

    async def all(self, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Call every rank with the same arguments."""
        return await asyncio.gather(*(h.call(method, *args, **kwargs) for h in self._handles))

    async def each(self, method: str, batches: PackedBatches, *args: Any) -> list[Any]:
        """Call every rank with its own micro-batches."""
        calls = (
            handle.call(method, rank_batches, *args)
            for handle, rank_batches in zip(self._handles, batches, strict=True)
        )
        return await asyncio.gather(*calls)


def spawn_ranks(
    session: Session, cls: type, *, name: str, num: int, device: Device, call_timeout_s: float
) -> list[Handle]:
    """Create ``num`` actors of ``cls(rank=...)``, on CUDA one GPU each."""
    handles = []
    for rank in range(num):
        actor = session.spawn(cls, rank=rank, num_gpus=1 if device is Device.cuda else 0)
        handles.append(Handle(actor, name=f"{name} rank {rank}", timeout_s=call_timeout_s))
    return handles
