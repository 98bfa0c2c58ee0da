"""Sends each request to a generator.

Owns the choice of the generator, the permits of each, and reporting generators whose requests
failed. Refuses to own retries (collector.py), processes (cluster/) and health
(control/fleet.py). Invariants: only a healthy generator gets a request; the permit of a request
is always returned.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from rlpost.control.concurrency import Load, Permits
from rlpost.control.fleet import Fleet
from rlpost.errors import InfrastructureError, ProcessDied, RequestAborted
from rlpost.rollout.protocol import Generator
from rlpost.rollout.signal import Signal
from rlpost.types import Episode, GenerationRequest

log = logging.getLogger(__name__)

Span = Callable[[str, str, float, float], None]  # lane, name, start_s, end_s


def no_span(lane: str, name: str, start_s: float, end_s: float) -> None:
    """Discard a span."""


class Dispatcher:
    """Sends each request to the healthy generator with the fewest outstanding ones.

    Args:
        fleet: knows which generators are healthy.
        generators: name -> engine; changes with the fleet.
        signal: notified when the fleet changes, and here when permits are returned.
        permits: most groups that a generator works on at once.
        clock: seconds.
        span: called after every request.
    """

    def __init__(
        self,
        fleet: Fleet,
        generators: Mapping[str, Generator],
        *,
        signal: Signal,
        permits: int = 64,
        clock: Callable[[], float] = time.monotonic,
        span: Span = no_span,
    ) -> None:
        self._fleet = fleet
        self._generators = generators
        self._signal = signal
        self._highest = permits
        self._permits: dict[str, Permits] = {}
        self._closed_for_one: set[str] = set()  # generators that run a single suspect prompt
        self._where: dict[str, str] = {}  # request's key -> generator
        self._clock, self._span = clock, span

    async def generate(
        self,
        request: GenerationRequest,
        *,
        alone: bool = False,
        on_start: Callable[[int], None] = lambda version: None,
    ) -> tuple[Episode, ...]:
        """Sample on a healthy generator; wait for one if there is none.

        Args:
            request: what to sample.
            alone: run nothing else on that generator at the same time, so that if it dies, this
                prompt is the cause.
            on_start: called with the version that the generator serves when the request begins.

        Raises:
            InfrastructureError: the generator failed, which was reported to the fleet.
        """
        key = request.key
        name = await self._acquire(alone)
        member = self._fleet.members[name]
        incarnation, start_s = member.incarnation, self._clock()
        self._where[key] = name
        try:
            on_start(member.version)
            return await self._generators[name].generate(request)
        except RequestAborted:
            raise
        except ProcessDied as error:
            self._fleet.died(name, incarnation=incarnation, reason=str(error))
            raise
        except InfrastructureError as error:
            self._fleet.suspected(name, incarnation=incarnation, reason=str(error))
            await self._cancel(key, name)  # otherwise it would run at the same time as its retry
            raise
        finally:
            self._span(name, key, start_s, self._clock())
            self._where.pop(key, None)
            self._permits[name].give_back()
            if alone:
                self._closed_for_one.discard(name)
            self._signal.notify()

    def cancel(self, key: str) -> Awaitable[list[int]]:
        """Cancel a request; await the result to get the number of tokens of its responses.

        The generator is looked up before this returns, so the caller may cancel its task next.
        """
        return self._cancel(key, self._where.get(key))

    async def _cancel(self, key: str, name: str | None) -> list[int]:
        if name is None or name not in self._generators:
            return []
        with suppress(InfrastructureError):  # it is dead, or the request ends by itself
            return await self._generators[name].cancel(key)
        return []

    def observe(self, name: str, load: Load) -> None:
        """Adapt the permits of a generator to what it reports."""
        self._of(name).observe(load)
        self._signal.notify()

    async def drained(self, name: str) -> None:
        """Wait until a generator that gets no new requests has finished its last one."""
        while self._of(name).used:
            await self._signal.wait()

    async def _acquire(self, alone: bool) -> str:
        while True:
            name = self._choose(alone)
            if name is not None and (not alone or await self._emptied(name)):
                self._of(name).take()
                return name
            await self._signal.wait()

    def _choose(self, alone: bool) -> str | None:
        free = [
            name
            for name in self._fleet.serving()
            if name not in self._closed_for_one and (alone or self._of(name).free > 0)
        ]
        return min(free, key=lambda name: self._of(name).used, default=None)

    async def _emptied(self, name: str) -> bool:
        """Wait until a generator has finished its requests; return False if it stops serving."""
        self._closed_for_one.add(name)
        try:
            while self._of(name).used:
                await self._signal.wait()
                if name not in self._fleet.serving():
                    break
        except asyncio.CancelledError:
            self._closed_for_one.discard(name)
            raise
        if self._of(name).used or name not in self._fleet.serving():
            self._closed_for_one.discard(name)
            return False
        return True

    def _of(self, name: str) -> Permits:
        if name not in self._permits:
            self._permits[name] = Permits(highest=self._highest)
        return self._permits[name]
