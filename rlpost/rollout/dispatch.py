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
from rlpost.control.least_busy import LeastBusy
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
        self._least_busy = LeastBusy()  # of those that serve and have a permit to give
        self._seen_changes = -1  # of the fleet
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
            self._offer(name)
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
        self._offer(name)
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
                self._offer(name)
                return name
            await self._signal.wait()

    def _choose(self, alone: bool) -> str | None:
        if alone:  # a permit will be free when it is empty; rare enough to look at all of them
            serving = [n for n in self._fleet.serving() if n not in self._closed_for_one]
            return min(serving, key=lambda name: self._of(name).used, default=None)
        if self._seen_changes != self._fleet.changes:
            self._seen_changes = self._fleet.changes
            serving = self._fleet.serving()
            self._least_busy.begin(serving)
            for name in serving:
                self._offer(name)
        return self._least_busy.first()

    def _offer(self, name: str) -> None:
        """Note what has changed of a generator, for the next choice."""
        permits = self._of(name)
        if name in self._closed_for_one or permits.free <= 0:
            self._least_busy.withdraw(name)
        else:
            self._least_busy.offer(name, permits.used)

    async def _emptied(self, name: str) -> bool:
        """Wait until a generator has finished its requests; return False if it stops serving."""
        self._close_for_one(name)
        try:
            while self._of(name).used:
                await self._signal.wait()
                if name not in self._fleet.serving():
                    break
        except asyncio.CancelledError:
            self._open_again(name)
            raise
        if self._of(name).used or name not in self._fleet.serving():
            self._open_again(name)
            return False
        return True

    def _close_for_one(self, name: str) -> None:
        self._closed_for_one.add(name)
        self._offer(name)

    def _open_again(self, name: str) -> None:
        self._closed_for_one.discard(name)
        self._offer(name)

    def _of(self, name: str) -> Permits:
        if name not in self._permits:
            self._permits[name] = Permits(highest=self._highest)
        return self._permits[name]
