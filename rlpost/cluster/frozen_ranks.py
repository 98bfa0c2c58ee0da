"""Ranks that divide a frozen model: one call of the driver is one call of the whole group.

Owns the replacement of the group. Refuses to own the fan-out (ranks.py) and what the ranks do
(divided.py, reward.py). Invariants: the group holds no state, so when a rank dies or hangs all are
replaced and asked again; calls of the group are made one after the other, so that all ranks get
them in one order.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from rlpost.cluster.handle import ATTEMPTS, retrying
from rlpost.cluster.ranks import Ranks
from rlpost.errors import GroupLost, ProcessDied

log = logging.getLogger(__name__)

T = TypeVar("T")


class FrozenRanks:
    """Calls ranks that can be replaced at any time: repeats a call that failed.

    Args:
        ranks: whose ``setup`` loads the model.
        attempts: of one call.
    """

    def __init__(self, ranks: Ranks, *, attempts: int = ATTEMPTS) -> None:
        self._ranks = ranks
        self._attempts = attempts
        # What has to be done before the ranks can be asked, if anything.
        self._first: Callable[[], Awaitable[Any]] | None = ranks.setup
        self._one_at_a_time = asyncio.Lock()

    async def setup(self) -> None:
        """Have every rank load its part.

        Raises:
            ProcessDied, NoAnswer: in every attempt.
        """
        await self._repeated(_nothing)

    async def own(self, method: str, arguments: Sequence[Sequence[Any]]) -> list[Any]:
        """Call every rank with arguments of its own; raises what ``setup`` does."""
        return await self._repeated(lambda: self._ranks.own(method, arguments))

    async def call(self, method: str, *args: Any) -> Any:
        """Call every rank with the same arguments; returns the answer of rank 0. Like ``own``."""
        return (await self._repeated(lambda: self._ranks.all(method, *args)))[0]

    async def sleep(self) -> int:
        """Have the ranks leave memory until the next call; returns the bytes.

        A group that was lost counts as asleep: the next call replaces it.
        """
        async with self._one_at_a_time:
            if self._first is not None:
                return 0
            try:
                return sum(await self._ranks.all("sleep"))
            except GroupLost as error:
                log.warning("an idle model stays where it is: %s", error)
                self._first = self._ranks.restart
                return 0

    def kill(self) -> None:
        """End the actors for good."""
        self._ranks.kill()

    async def _repeated(self, call: Callable[[], Awaitable[T]]) -> T:
        async with self._one_at_a_time:
            async for attempt in retrying(self._attempts):
                with attempt:
                    try:
                        if self._first is not None:
                            await self._first()
                            self._first = None
                        return await call()
                    except GroupLost as error:
                        log.warning("a frozen model is loaded anew by all of its ranks: %s", error)
                        self._first = self._ranks.restart
                        # Not as it is: the name says that training has lost steps.
                        raise ProcessDied(str(error)) from error
        raise AssertionError("unreachable: the last attempt re-raises")


async def _nothing() -> None:
    """What is asked of ranks that only have to be there."""
