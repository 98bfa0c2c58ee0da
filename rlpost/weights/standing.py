"""Generators that serve what they loaded from disk: there is no trainer that pushes.

Owns the stand-in for the bus where weights never change. Refuses to own processes. Invariant: the
version is that of the weights on disk, for every generator and after every restart.
"""

from typing import Protocol

from rlpost.control.fleet import Fleet

DISK_VERSION = 0  # as rollout/pushes.py calls what an engine loaded from disk


class WeightSync(Protocol):
    """What brings generators up to date, as whoever supervises them needs it."""

    engaged: set[str]  # generators in the middle of a push
    resting: bool  # they have left their devices: none may boot

    @property
    def has_served(self) -> bool:
        """Whether there is a version that a generator can catch up with."""

    async def catch_up(self, name: str) -> bool:
        """Bring one generator to the newest version; return whether it serves now."""


class StandingWeights:
    """See ``WeightSync``.

    Example::

        weights = StandingWeights(fleet)
        await supervisor.boot()
        guard = asyncio.create_task(supervisor.run(weights))
    """

    has_served = True
    resting = False

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.engaged: set[str] = set()

    async def catch_up(self, name: str) -> bool:
        """Let a generator serve that was started, or started again."""
        incarnation = self._fleet.syncable().get(name)
        return incarnation is not None and self._fleet.synced(
            name, incarnation=incarnation, version=DISK_VERSION
        )
