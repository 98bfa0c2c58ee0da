"""How simulated weights travel: fetchable at any time, or once with the sender's help.

Owns the bytes under way, as the transports do (weights/transports/). ``Meeting`` behaves as a
gloo group: nobody gets anything before all are there, and everybody has a deadline.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from simulation.toy import VOCABULARY, Weights

from rlpost.errors import WeightPushError
from rlpost.weights.adapter import tensor_name
from rlpost.weights.manifest import PushManifest, TensorEntry
from rlpost.weights.transports.protocol import Locator, Seat

TRANSFER_S = 0.05
PLACE: dict[str, Any] = {"dtype": "float64", "offset": 0, "size_bytes": 40, "checksum": ""}
ENTRIES = tuple(
    TensorEntry(name=tensor_name("logits", side), shape=shape, **PLACE)
    for side, shape in (("A", (1, VOCABULARY)), ("B", (VOCABULARY, 1)))
)


class Meeting:
    """One transfer of the workers on ``seats`` and the sender."""

    def __init__(self, weights: Weights, *, seats: Sequence[Seat]) -> None:
        self.weights = weights
        self._missing = 1 + sum(seat.num_workers for seat in seats)
        self._ranks: list[int] = []
        self._complete = asyncio.get_running_loop().create_future()

    async def join(self, ranks: range, *, process: Any, timeout_s: float) -> Weights:
        """Take part as these ranks.

        Raises:
            WeightPushError: not everybody came in time, or somebody died.
        """
        assert not set(ranks) & set(self._ranks), (ranks, self._ranks)
        self._ranks += ranks
        self._missing -= len(ranks)
        if self._missing == 0 and not self._complete.done():
            self._complete.set_result(None)
        before, process.on_death = process.on_death, self.peer_died(process)
        try:
            await asyncio.wait_for(asyncio.shield(self._complete), timeout_s)
        except TimeoutError as error:
            raise WeightPushError("gloo broadcast failed: a peer is missing") from error
        finally:
            if process.alive:
                process.on_death = before
        await process.work(TRANSFER_S)
        return self.weights

    def refused(self, why: str) -> WeightPushError:
        """Tell everybody who waits that there will be nothing."""
        if not self._complete.done():
            self._complete.set_exception(WeightPushError(why))
            self._complete.exception()  # seen, whoever still waits
        return WeightPushError(why)

    def peer_died(self, process: Any) -> Any:
        before = process.on_death

        def died() -> None:
            before()
            if process.world.scenario.reset_seen and not self._complete.done():
                self._complete.set_exception(
                    WeightPushError("gloo broadcast failed: connection reset by peer")
                )
                self._complete.exception()  # seen, whoever still waits

        return died


class Payloads:
    """What was staged and not yet released, by version."""

    def __init__(self, *, repeatable: bool, timeout_s: float, adapters: bool = False) -> None:
        self._repeatable, self._timeout_s = repeatable, timeout_s
        self._adapter = {"r": 1, "lora_alpha": 1} if adapters else None
        self._kept: dict[int, Weights] = {}
        self._meetings: dict[int, Meeting] = {}
        self._last_meeting = 0

    def announce(self, version: int, weights: Weights, *, seats: Sequence[Seat]) -> Locator:
        where: dict[str, Any] = {"version": version}
        if self._repeatable:
            self._kept[version] = weights
        else:
            self._last_meeting += 1
            where["meeting"] = self._last_meeting
            self._meetings[self._last_meeting] = Meeting(weights, seats=seats)
        manifest = PushManifest(version=version, entries=ENTRIES, adapter=self._adapter).to_dict()
        return Locator(
            transport="simulated", manifest=manifest, where=where, repeatable=self._repeatable
        )

    async def send(self, process: Any, *, moved_on: bool) -> None:
        """Take part; what was not written down is sent of the weights as they are."""
        if not self._repeatable:
            meeting = self._meetings[self._last_meeting]
            if moved_on:
                raise meeting.refused("the trainer has learned since")
            await meeting.join(range(1), process=process, timeout_s=self._timeout_s)

    async def fetch(self, locator: Locator, ranks: range, process: Any) -> Weights:
        if self._repeatable:
            await process.work(TRANSFER_S)
            if locator.where["version"] not in self._kept:
                raise WeightPushError(f"no payload of version {locator.where['version']}")
            return self._kept[locator.where["version"]]
        meeting = self._meetings[locator.where["meeting"]]
        return await meeting.join(ranks, process=process, timeout_s=self._timeout_s)

    def release(self, version: int) -> None:
        self._kept.pop(version, None)

    def lose(self) -> None:
        """Their holder is gone."""
        self._kept.clear()
