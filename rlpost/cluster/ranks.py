"""Ranks of one group in actors: one call of the driver is one call on every rank.

Owns the fan-out and the replacement of the whole group. Refuses to know what the ranks do
(trained.py). Invariant: the group fails as a whole when one rank fails.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from rlpost.cluster.handle import Handle
from rlpost.cluster.session import Session
from rlpost.errors import GroupLost, NoAnswer, ProcessDied
from rlpost.network import free_port

# A rank whose peer dies fails in its collective, sometimes before the death itself is known.
BLAME_GRACE_S = 10.0


def rendezvous_address() -> tuple[str, int]:
    """The address of this node that the cluster uses, and a free port; called in rank 0."""
    import ray

    host = ray.util.get_node_ip_address()
    return host, free_port(host)


class Ranks:
    """The driver's end of the actors of one group, in rank order.

    Args:
        spawn: starts a whole group of actors.
        settings: of every rank's ``setup``, by name.
        sharing: how many neighbours get the same micro-batches, and give the same answers.
    """

    def __init__(
        self,
        spawn: Callable[[], Sequence[Handle]],
        *,
        settings: Mapping[str, Any],
        sharing: int = 1,
    ) -> None:
        self._spawn = spawn
        self._settings = settings
        self._sharing = sharing
        self._handles = spawn()

    async def setup(self) -> Any:
        """Have every rank build its engine; returns rank 0's answer."""
        (master,) = await _together([self._handles[0].call("address")])
        answers = await self.all(
            "setup", world_size=len(self._handles), master=master, **self._settings
        )
        return answers[0]

    async def restart(self) -> None:
        """Kill every rank and set new ones up as the first were."""
        self.kill()
        self._handles = self._spawn()
        await self.setup()

    async def all(self, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Call every rank with the same arguments.

        Raises:
            GroupLost: a rank died or hangs.
        """
        return await _together([h.call(method, *args, **kwargs) for h in self._handles])

    async def each(self, method: str, parts: Sequence[Any], *args: Any) -> list[Any]:
        """Call every rank with its own part, such as its micro-batches; like ``all``.

        Returns:
            One answer for each of ``parts``: that of the first rank that has it.
        """
        shared = [(part, *args) for part in parts for _ in range(self._sharing)]
        return (await self.own(method, shared))[:: self._sharing]

    async def own(self, method: str, arguments: Sequence[Sequence[Any]]) -> list[Any]:
        """Call every rank with arguments of its own; like ``all``."""
        calls = [
            handle.call(method, *args)
            for handle, args in zip(self._handles, arguments, strict=True)
        ]
        return await _together(calls)

    def kill(self) -> None:
        """End the actors for good."""
        for handle in self._handles:
            handle.kill()


async def _together(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        errors = _errors(tasks)
        if errors and not any(isinstance(e, ProcessDied | NoAnswer) for e in errors):
            await asyncio.wait(tasks, timeout=BLAME_GRACE_S)
            errors = _errors(tasks)
    finally:
        for task in tasks:
            task.cancel()
    for error in errors:
        if isinstance(error, ProcessDied | NoAnswer):
            raise GroupLost(str(error)) from error
    if errors:
        raise errors[0]
    return [task.result() for task in tasks]


def _errors(tasks: Sequence["asyncio.Future[Any]"]) -> list[BaseException]:
    done = [task for task in tasks if task.done() and not task.cancelled()]
    return [error for error in (task.exception() for task in done) if error is not None]


def rank_name(group: str, rank: int) -> str:
    """Example: ``rank_name("trainer", 0) == "trainer rank 0"``."""
    return f"{group} rank {rank}"


def rank_names(group: str, num: int) -> list[str]:
    """Example: ``rank_names("trainer", 2) == ["trainer rank 0", "trainer rank 1"]``."""
    return [rank_name(group, rank) for rank in range(num)]


def spawn_ranks(
    session: Session,
    cls: type,
    *,
    slots: Sequence[str],
    call_timeout_s: float,
    settings: Mapping[str, Any],
    sharing: int = 1,
) -> Ranks:
    """Create an actor of ``cls(rank=...)`` in each slot, which is its name; see ``Ranks``."""

    def spawn() -> list[Handle]:
        handles = []
        for rank, slot in enumerate(slots):
            actor = session.spawn(cls, rank=rank, slot=slot)
            handles.append(Handle(actor, name=slot, timeout_s=call_timeout_s))
        return handles

    return Ranks(spawn, settings=settings, sharing=sharing)
