"""A simulated trainer, or critic: weights are a function of what it was trained on, in order.

Mirrors ``cluster/trained.py`` and ``training/zero/deepspeed_trainer.py``: a serial process, files
written behind its back after ``begin_save``, everything in memory gone when it dies.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from simulation import toy
from simulation.process import Process

from rlpost.checkpoint.space import CheckpointWriteError
from rlpost.errors import GroupLost, NoAnswer, ProcessDied
from rlpost.training.packing.pack import Packed
from rlpost.weights.transports.protocol import Locator, Seat

UPDATE_S, STAGE_S, BUILD_S, WRITE_S = 0.4, 0.05, 1.5, 0.6
FILE = "state.json"


class Learner:
    """The body of a trainer's process."""

    def __init__(self, process: Process) -> None:
        self._process, self._world = process, process.world
        self.weights = toy.FIRST
        self.update_id = 0
        self._gradient: bytes | None = None
        self._staged: tuple[int, toy.Weights] | None = None
        self._announced = self._changed = False
        self._writing: asyncio.Task[None] | None = None
        self._write_error: Exception | None = None
        self.on_device = True

    async def sleep(self) -> int:
        await self._process.work(0.01)
        self.on_device = False
        return 0

    def _wake(self) -> None:
        self._world.checker.takes_device(self._process.name, others=self._world.engines)
        self.on_device = True

    async def setup(self) -> int:
        self._wake()
        await self._process.work(BUILD_S)
        return len(self.weights)

    async def forward_backward(self, packed: Packed) -> dict[str, float]:
        self._wake()
        assert self._gradient is None, "optim_step must consume the gradients first"
        assert not packed.is_empty, "an optimizer batch without micro-batches"
        self._world.checker.trains(packed)
        await self._process.work(UPDATE_S)
        self._gradient = toy.gradient_of(packed)
        return {"actor/pg_loss": 0.0}

    async def optim_step(self, step_id: int) -> dict[str, float]:
        assert step_id > self.update_id, (step_id, self.update_id)
        assert self._gradient is not None
        self._world.point("optim_step")
        self.weights, self._changed = toy.updated(self.weights, self._gradient, step_id), True
        self.update_id, self._gradient = step_id, None
        await self._process.work(0.01)
        return {"actor/lr": 1.0}

    async def score(self, packed: Packed) -> list[list[np.ndarray]]:
        self._wake()
        await self._process.work(UPDATE_S / 2)
        return [
            [np.full(batch.target_R.shape, -1.0, dtype=np.float32) for batch in rank_batches]
            for rank_batches in packed.batches
        ]

    async def stage(self, version: int, seats: Sequence[Seat]) -> Locator:
        self._wake()
        await self._process.work(STAGE_S)
        self._staged, self._changed = (version, self.weights), False
        self._announced = True
        self._world.checker.staged(version, self.weights)
        self._world.point("stage")
        return self._world.payloads.announce(version, self.weights, seats=seats)

    async def announce_again(self, seats: Sequence[Seat]) -> Locator | None:
        await self._process.work(0.01)
        assert self._staged is not None, "nothing was staged yet"
        if self._changed and not self._world.scenario.repeatable:
            return None
        version, weights = self._staged
        self._announced = True
        return self._world.payloads.announce(version, weights, seats=seats)

    async def send(self) -> None:
        assert self._announced, "nothing was announced yet"
        await self._world.payloads.send(self._process, moved_on=self._changed)

    async def release(self, version: int) -> None:
        await self._process.work(0.005)
        self._world.payloads.release(version)

    async def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        self._wake()
        await self._process.work(0.02)
        return toy.probe(self.weights, sequences)

    async def begin_save(self, directory: str) -> None:
        self._wake()
        assert self._writing is None, "finish_save must end the last save first"
        await self._process.work(0.02)
        self._world.point("begin_save")
        state = json.dumps({"weights": self.weights, "update_id": self.update_id})
        self._write_error = None
        writing = self._write(Path(directory) / FILE, state)
        self._writing = self._process.spawn(writing, "write")

    async def _write(self, path: Path, state: str) -> None:
        try:
            self._world.disk.may("write")
            path.write_text(state[: len(state) // 2])
            await self._process.work(WRITE_S)
            path.write_text(state)
        except OSError as error:
            self._write_error = CheckpointWriteError(f"{path}: {error}")

    async def finish_save(self) -> None:
        assert self._writing is not None, "begin_save comes first"
        writing, self._writing = self._writing, None
        await asyncio.shield(writing)
        if self._write_error is not None:
            raise self._write_error

    async def load(self, directory: str) -> None:
        self._wake()
        await self._process.work(0.1)
        state = json.loads((Path(directory) / FILE).read_text())
        self.weights, self.update_id = tuple(state["weights"]), state["update_id"]
        self._changed = True
        self._gradient = None

    async def export(self) -> None:
        await self._process.work(0.1)

    async def close(self) -> None:
        self._process.kill()


class TrainedGroup:
    """The driver's end; of a policy it is the bus's publisher. Errors are those of ``Ranks``."""

    def __init__(self, world: Any, name: str) -> None:
        self._world, self.name = world, name
        self.comes: Callable[[], Awaitable[None]] | None = None
        self.process = self._spawn()

    def _spawn(self) -> Process:
        process = Process(self._world, self.name, serial=True)
        process.body = Learner(process)
        process.on_death = self._died
        self._world.learners[self.name] = process
        return process

    def _died(self) -> None:
        if self.name == "trainer" and not self._world.scenario.payload_survives:
            self._world.payloads.lose()

    @property
    def body(self) -> Learner:
        return self.process.body

    async def _verb(self, verb: str, *args: Any) -> Any:
        try:
            return await self.process.call(verb, *args, timeout_s=self._world.limits.call_s)
        except (ProcessDied, NoAnswer) as error:
            raise GroupLost(str(error)) from error

    async def setup(self) -> int:
        return await self._verb("setup")

    async def sleep(self) -> int:
        return await self._verb("sleep")

    async def _needed(self, verb: str, *args: Any) -> Any:
        if self.comes is not None:
            await self.comes()
        return await self._verb(verb, *args)

    async def restart(self) -> None:
        if self.comes is not None:
            await self.comes()
        self._world.checker.replaced("trainer", "critic")
        self.process.kill()
        self.process = self._spawn()
        await self._verb("setup")

    async def begin_save(self, directory: Path) -> None:
        await self._needed("begin_save", str(directory))

    async def finish_save(self) -> None:
        await self._verb("finish_save")

    async def load(self, directory: Path) -> None:
        await self._needed("load", str(directory))

    async def optim_step(self, step_id: int) -> dict[str, float]:
        return await self._needed("optim_step", step_id)

    async def close(self) -> None:
        await self._verb("close")

    async def forward_backward(
        self, packed: Packed, objective: Any, *, temperature: float = 1.0
    ) -> dict[str, float]:
        return await self._needed("forward_backward", packed)

    async def score(self, packed: Packed, *, temperature: float = 1.0) -> Any:
        return await self._needed("score", packed)

    async def stage(self, version: int, *, seats: Sequence[Seat]) -> Locator:
        return await self._verb("stage", version, seats)

    async def announce_again(self, *, seats: Sequence[Seat]) -> Locator | None:
        return await self._verb("announce_again", seats)

    async def export(self) -> None:
        await self._needed("export")

    async def send(self) -> None:
        await self._verb("send")

    async def release(self, version: int) -> None:
        await self._verb("release", version)

    async def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return await self._verb("probe_logprobs", sequences)
