"""Generators and what trains, on the same devices one after the other.

Owns who has the devices, and the wait for whoever boots there. Refuses to own weights (bus.py),
processes (cluster/) and the memory itself (training/parking.py and vLLM's sleep). Invariants: the
ones have left before the others come, and who did not leave is killed first; while generators rest,
none boots.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from rlpost.control.fleet import Fleet
from rlpost.errors import WeightPushError
from rlpost.weights.phase import Refused, ask_all
from rlpost.weights.protocol import BusConfig, PushTarget


class Turns:
    """Example::

        await turns.rest(engaged)  # generators have left; train
        await turns.resume()       # what trains has left; generators come back by a push

    Args:
        leave: takes what trains off the devices that generators need. None: both stay, and every
            verb returns at once.
        fleet: told who lacks weights after a rest.
        receivers: name -> generator; changes with the fleet.
        changed: returns when the fleet has changed.
        cfg: deadlines of a phase and of waiting for a generator that boots.
    """

    def __init__(
        self,
        leave: Callable[[], Awaitable[Any]] | None,
        *,
        fleet: Fleet,
        receivers: Mapping[str, PushTarget],
        changed: Callable[[], Awaitable[None]],
        cfg: BusConfig,
    ) -> None:
        self._leave = leave
        self._fleet, self._receivers = fleet, receivers
        self._changed = changed
        self._cfg = cfg
        self.resting = False

    @property
    def taken(self) -> bool:
        """Whether there are turns at all."""
        return self._leave is not None

    async def rest(self, engaged: set[str]) -> None:
        """Have all generators leave, and kill those that do not.

        Args:
            engaged: gets the names of those that answer nothing else meanwhile.

        Raises:
            WeightPushError: one boots, and does not come up.
        """
        if self._leave is None or self.resting:
            return
        self.resting = True
        await self._until(lambda: not self._fleet.booting(), "not all that boot came up")
        ticket = self._fleet.up()
        known = dict(self._receivers)  # whoever replaces one that is dead takes it from there
        engaged.update(ticket)
        failures: Mapping[str, Exception] = {}
        try:
            await ask_all(
                ticket,
                self._receivers,
                lambda name, generator: generator.sleep(),
                phase="sleep",
                timeout_s=self._cfg.timeout_s,
            )
        except Refused as refusal:
            failures = refusal.failures
        finally:
            engaged.clear()
        for name, incarnation in ticket.items():
            self._fleet.out_of_sync(name)
            if name in failures:
                self._fleet.died(name, incarnation=incarnation, reason=str(failures[name]))
        for name in known.keys() & set(self._fleet.dead()):  # it may hold its memory still
            await known[name].kill()

    async def resume(self) -> None:
        """Have what trains leave; generators may boot again.

        Raises:
            GroupLost: it is gone.
        """
        if self._leave is not None:
            await self._leave()
            self.resting = False

    async def participants(self, engaged: set[str]) -> dict[str, int]:
        """Have generators rest; return who can take part in a push, with incarnations.

        Raises:
            WeightPushError: nobody came up.
        """
        await self.rest(engaged)
        if not self._fleet.syncable():
            await self.resume()  # they boot on the devices that they share
            await self._until(self._fleet.syncable, "no generator came up")
            await self.rest(engaged)
        return self._fleet.syncable()

    async def _until(self, holds: Callable[[], Any], otherwise: str) -> None:
        try:
            async with asyncio.timeout(self._cfg.boot_timeout_s):
                while not holds():
                    await self._changed()
        except TimeoutError as error:
            raise WeightPushError(
                f"{otherwise} in {self._cfg.boot_timeout_s:g} s:\n{self._fleet.describe()}"
            ) from error
