"""Keeps the fleet of generators alive, in sync and of the wanted size.

Owns pings, restarts and their pace. Refuses to own who may be asked what (control/fleet.py),
pushes (weights/bus.py) and requests (rollout/dispatch.py). Runs beside the loop and never
waits for it. Invariants: a dead generator's processes are gone before a new one takes its
name; a new process serves only after a completed push; every wait has a deadline.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from rlpost.control.failures import Budget, GenerationFailureConfig, backoff
from rlpost.control.fleet import Fleet, Health
from rlpost.control.watchdog import Watchdog
from rlpost.errors import GroupLost, InfrastructureError, ProcessDied, RunStuck
from rlpost.rollout.dispatch import Dispatcher
from rlpost.rollout.protocol import RestartableGenerator
from rlpost.rollout.signal import Signal
from rlpost.weights.standing import WeightSync
from rlpost.weights.transports.protocol import Seat

log = logging.getLogger(__name__)


class Supervisor:
    """Example::

    supervisor = Supervisor(fleet, generators, ...)
    await supervisor.boot()
    guard = asyncio.create_task(supervisor.run(bus))

    Args:
        fleet: the members; starts with those to boot.
        generators: name -> generator; this object fills and changes it.
        seats: name -> where it receives weights; likewise.
        spawn: starts a process for a name.
        dispatcher: told the load of each generator.
        signal: notified of every change.
        failures: pace of pings and restarts.
        budget: of failures in a row.
        watchdog: looked at on every round.
        wanted: how many generators there should be; None: as many as there are.
        clock: seconds.
    """

    def __init__(
        self,
        fleet: Fleet,
        generators: dict[str, RestartableGenerator],
        *,
        seats: dict[str, Seat],
        spawn: Callable[[str], RestartableGenerator],
        dispatcher: Dispatcher,
        signal: Signal,
        failures: GenerationFailureConfig,
        budget: Budget,
        watchdog: Watchdog,
        wanted: Callable[[], int | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._generators = generators
        self._seats = seats
        self._spawn = spawn
        self._dispatcher = dispatcher
        self._signal = signal
        self._failures = failures
        self._budget = budget
        self._watchdog = watchdog
        self._wanted = wanted
        self._clock = clock
        self._busy: dict[str, asyncio.Task[None]] = {}  # name -> restart or catch-up under way
        self._requested: int | None = None
        self._refused: set[str] = set()  # those of this request that could not join
        self._pinged_s = clock()

    async def boot(self) -> None:
        """Start every member for the first time, side by side.

        Raises:
            InfrastructureError: one did not come up: the settings are at fault, not luck.
        """
        names = list(self._fleet.members)
        for name in names:
            self._generators[name] = self._spawn(name)
        infos = await asyncio.gather(*(self._generators[name].setup() for name in names))
        for name, info in zip(names, infos, strict=True):
            self._seats[name] = info.seat
            self._fleet.booted(name)
            log.info("%s: %s", name, info)
        self._signal.notify()

    async def run(self, bus: WeightSync) -> None:
        """Look after the fleet until cancelled.

        Raises:
            RunStuck: nothing was finished for too long.
            RunFailed: too many failures without progress.
        """
        try:
            while True:
                self._round(bus)
                try:
                    async with asyncio.timeout(self._failures.ping_every_s):
                        await self._signal.wait()
                except TimeoutError:
                    continue
        finally:
            for task in self._busy.values():
                task.cancel()

    def _round(self, bus: WeightSync) -> None:
        self._collect_finished()
        stuck = self._watchdog.look(now_s=self._clock())
        if stuck is not None:
            raise RunStuck(str(stuck))
        if not bus.resting:
            self._resize()  # first: who shall leave is not restarted
        for name in self._fleet.dead():
            self._start(name, self._restart(name, bus))
        if bus.has_served:
            for name in self._fleet.stale():
                # Not under the generator's own name: a catch-up waits for a push to end, and that
                # push may wait for a restart of this generator, which has to start meanwhile.
                self._start(f"catch up {name}", self._catch_up(name, bus))
        if self._clock() - self._pinged_s >= self._failures.ping_every_s:
            self._pinged_s = self._clock()
            for name in self._fleet.pingable():
                if name not in bus.engaged:
                    self._start(f"ping {name}", self._ping(name, bus))

    def _start(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work`` unless something of that key is under way."""
        if key in self._busy:
            work.close()
            return
        task = self._busy[key] = asyncio.create_task(work, name=key)
        task.add_done_callback(lambda _: self._signal.notify())

    def _collect_finished(self) -> None:
        for key, task in list(self._busy.items()):
            if task.done():
                del self._busy[key]
                task.result()  # raises what must end the run

    async def _ping(self, name: str, bus: WeightSync) -> None:
        incarnation = self._fleet.members[name].incarnation
        try:
            pulse = await self._generators[name].health()
        except ProcessDied as error:
            self._fleet.died(name, incarnation=incarnation, reason=str(error))
        except InfrastructureError as error:
            if name not in bus.engaged:
                self._fleet.missed(name, incarnation=incarnation, reason=str(error))
        else:
            self._fleet.answered(name, incarnation=incarnation)
            self._dispatcher.observe(name, pulse.load)

    async def _catch_up(self, name: str, bus: WeightSync) -> None:
        try:
            if await bus.catch_up(name):
                log.info("%s serves again", name)
            elif name in self._fleet.stale():  # until the next push there is nothing for it
                await asyncio.sleep(self._failures.ping_every_s)
        except GroupLost as error:  # the loop will find out, and push anew
            log.warning("%s cannot catch up yet: %s", name, error)
            await asyncio.sleep(self._failures.ping_every_s)

    async def _restart(self, name: str, bus: WeightSync) -> None:
        member = self._fleet.members[name]
        log.warning("%s is restarted: %s", name, member.reason)
        self._budget.spend(f"{name}: {member.reason}")
        start_s = self._clock()
        old = self._generators.pop(name, None)
        if old is not None:
            await old.kill()
        while bus.resting:  # whoever trains has the device
            await asyncio.sleep(self._failures.ping_every_s)
        self._fleet.restarting(name)
        await asyncio.sleep(backoff(member.failed_boots + 1, config=self._failures))
        await self._bring_up(name)
        log.info("%s is up again after %.1f s", name, self._clock() - start_s)

    async def _bring_up(self, name: str) -> None:
        generator = None
        try:
            generator = self._spawn(name)
            info = await generator.setup()
        except InfrastructureError as error:
            if generator is not None:
                await generator.kill()
            self._fleet.failed_to_boot(name, str(error))
            return
        self._generators[name] = generator
        self._seats[name] = info.seat
        self._fleet.booted(name)

    # -- size -------------------------------------------------------------------------------

    def _resize(self) -> None:
        """Add or remove members until there are as many as wanted."""
        wanted = self._wanted()
        if wanted is None:
            return
        if wanted != self._requested:
            self._requested, self._refused = wanted, set()
        names = [generator_name(index) for index in range(wanted)]
        present = list(self._fleet.members)
        for name in names:
            if name not in {*present, *self._busy, *self._refused}:
                log.info("%s joins", name)
                self._fleet.add(name)
                self._start(name, self._join(name))
        for name in present:
            if name not in {*names, *self._busy}:
                log.info("%s leaves", name)
                self._fleet.remove(name)
                self._start(name, self._leave(name))

    async def _join(self, name: str) -> None:
        """Boot a new member; the run goes on without one that does not come up."""
        await self._bring_up(name)
        member = self._fleet.members[name]
        if member.health is Health.dead:
            self._fleet.remove(name)
            self._refused.add(name)
            log.warning(
                "%s cannot join, until another number is asked for: %s", name, member.reason
            )

    async def _leave(self, name: str) -> None:
        generator = self._generators.get(name)
        if generator is None:  # it was dead
            return
        try:
            await self._dispatcher.drained(name)
            await generator.close()
        except InfrastructureError as error:
            log.warning("closing: %s", error)
        await generator.kill()
        del self._generators[name]

    async def close(self) -> None:
        """Close every generator; whoever does not answer is killed with the session."""
        closing = (generator.close() for generator in self._generators.values())
        for result in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(result, InfrastructureError):
                log.warning("closing: %s", result)

    async def dismiss(self) -> None:
        """Close every generator and end its process, so that others can have its slot."""
        await self.close()
        for generator in list(self._generators.values()):
            await generator.kill()


def generator_name(index: int) -> str:
    """Example: ``generator_name(0) == "generator 0"``."""
    return f"generator {index}"
