"""What a simulated engine computes with, and how a push changes it.

``Whole`` mirrors ``rollout/whole_pushes.py`` and ``weights/vllm_plugin.py``: a push pauses and
keeps what runs, what was kept goes on under the loaded weights, an abort throws it away.
``Adapters`` stands for vLLM's LoRA manager below the real ``rollout/adapter_pushes.py``: it ends
the engine, as vLLM does, when somebody samples from an adapter that is not there.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from simulation import toy
from simulation.process import Process

from rlpost.errors import WeightPushError
from rlpost.rollout.pushes import Admitted
from rlpost.weights.transports.protocol import Locator

RPC_S = 0.02


class Whole:
    """One set of weights, replaced as a whole; both the kernels and their pushes."""

    def __init__(self, process: Process, engine: Any) -> None:
        self._process, self._world, self._engine = process, process.world, engine
        self._weights = toy.FIRST  # in the kernels
        self._blank = True  # they read nothing and wait for a push
        self._loaded: toy.Weights | None = None
        self._committed: toy.Weights | None = None
        self._refused: set[int] = set()
        self._staged: toy.Weights | None = None
        self.version = self._committed_version = 0
        self._pushing: int | None = None
        self._serving, self.unpaused = asyncio.Event(), asyncio.Event()
        self.unpaused.set()
        self.damage = self.corrupt = False
        self.on_device = True

    async def sleep(self) -> None:
        self._serving.clear()
        self.unpaused.clear()
        self._pushing, self._blank, self.version = None, True, 0
        for running in self._engine.requests:
            running.aborted = True
        await self._process.work(RPC_S)
        self.on_device = False

    def _come_back(self) -> None:
        self._world.checker.takes_device(self._process.name, others=self._world.learners)
        self.on_device = True

    def sampled_from(self, admitted: Admitted) -> tuple[int, toy.Weights]:
        return self.version, self._weights

    def enter(self, request_id: str, *, probes: bool = False) -> Admitted:
        if self._blank:  # a push goes on with the process that took the name of its member
            raise WeightPushError("no weights were pushed yet")
        return Admitted(request_id=request_id, version=self.version)

    def leave(self, admitted: Admitted) -> None:
        """Nothing is counted."""

    async def serving(self) -> None:
        what = f"{self._process.name} is asked before its first push"
        self._world.checker.expect(not self._blank, what)
        await self._serving.wait()

    def refuses(self, versions: Iterable[int]) -> bool:
        return any(v > self.version or v in self._refused for v in versions)

    async def begin(self, version: int) -> None:
        if self._pushing == version:
            return
        if version <= self.version:
            raise WeightPushError(f"version {version} is not newer than {self.version}")
        self._pushing = version
        self._serving.clear()
        self.unpaused.clear()
        self._come_back()
        await self._process.work(RPC_S)
        self._staged = None

    async def receive(self, locator: Locator, *, first_rank: int) -> None:
        self._staged = await fetched(self._process, locator, first_rank, damage=self.damage)

    async def load(self, version: int) -> None:
        await self._process.work(self._world.scenario.load_s * self._world.spread())
        if self._staged is None:
            raise WeightPushError("no verified payload to load")
        self._loaded, self._staged = self._staged, None
        self._blank = False
        self._weights = toy.corrupted(self._loaded) if self.corrupt else self._loaded
        self.version = version
        self.unpaused.set()

    async def commit(self, version: int) -> None:
        self._committed, self._committed_version = self._loaded, version
        self._pushing = None
        self._serving.set()

    async def abort(self, version: int) -> int:
        if self._pushing is None and self.on_device:
            return self.version
        self._come_back()
        for running in self._engine.requests:
            running.aborted = True
        await self._process.work(RPC_S)
        self._staged = None
        if self._blank or self._loaded is not self._committed:
            if self._committed is None:
                self._refused.add(self.version)
                self.version = 0
                raise WeightPushError("no committed version to go back to")
            self._loaded = self._weights = self._committed
        self._blank, self.version = False, self._committed_version
        self.unpaused.set()
        self._pushing = None
        self._serving.set()
        return self.version


class Adapters:
    """Weights by version, side by side, of which there is only so much room."""

    def __init__(self, process: Process, engine: Any) -> None:
        self._process, self._world, self._engine = process, process.world, engine
        self._held: dict[int, toy.Weights] = {}
        self._received: toy.Weights | None = None
        self.unpaused = asyncio.Event()
        self.unpaused.set()  # always
        self.damage = self.corrupt = False
        self.on_device = True  # always

    def sampled_from(self, admitted: Admitted) -> tuple[int, toy.Weights]:
        if admitted.adapter is None:
            return admitted.version, toy.FIRST
        if admitted.adapter not in self._held:
            self._world.checker.fail(f"{self._process.name} lacks adapter {admitted.adapter}")
            self._process.die("of a missing adapter")
            raise asyncio.CancelledError
        return admitted.version, self._held[admitted.adapter]

    async def receive_adapter(self, locator: Locator, *, first_rank: int) -> None:
        self._received = None
        self._received = await fetched(self._process, locator, first_rank, damage=self.damage)

    async def load_adapter(self, version: int, *, keep: Sequence[int]) -> None:
        await self._process.work(self._world.scenario.load_s * self._world.spread())
        if self._received is None:
            raise WeightPushError("no verified adapter to load")
        self._only(keep)
        self._held[version] = toy.corrupted(self._received) if self.corrupt else self._received
        room = self._world.scenario.capacity
        self._world.checker.expect(len(self._held) <= room, f"{sorted(self._held)}: evicted")
        self._received = None

    async def keep_adapters(self, keep: Sequence[int]) -> None:
        await self._process.work(RPC_S)
        self._received = None
        self._only(keep)

    def _only(self, keep: Sequence[int]) -> None:
        self._held = {version: w for version, w in self._held.items() if version in keep}

    async def abort(self, request_ids: Iterable[str]) -> None:
        named = set(request_ids)
        for running in self._engine.requests:
            running.aborted = running.aborted or running.id in named
        await self._process.work(RPC_S)


async def fetched(process: Process, locator: Locator, first_rank: int, *, damage: bool) -> Any:
    """Return a payload as the workers of an engine get it."""
    ranks = range(first_rank, first_rank + process.world.scenario.workers)
    weights = await process.world.payloads.fetch(locator, ranks, process)
    if damage:
        raise WeightPushError("checksum differs")
    return weights
