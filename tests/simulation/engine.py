"""A simulated inference engine: it truly samples from the weights it holds.

Mirrors ``rollout/vllm_generator.py`` and ``weights/vllm_plugin.py`` verb by verb: a push
pauses and keeps what runs, what was kept goes on under the loaded weights, an abort throws
it away. Every sampled token notes the version that the engine said it served.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from episodes import episode, trajectory
from simulation import toy
from simulation.process import Process

from rlpost.control.concurrency import Load
from rlpost.data.cursor import parse_uid
from rlpost.errors import RequestAborted, WeightPushError
from rlpost.rollout.protocol import GeneratorInfo, Pulse
from rlpost.types import Episode, GenerationRequest
from rlpost.weights.transports.protocol import Locator

RPC_S = 0.02


class _Child:
    """One response that grows."""

    def __init__(self, seed: int, last: int) -> None:
        self.seed, self.last = seed, last
        self.draws = random.Random(seed)
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.versions: list[int] = []
        self.finish_reason = ""

    def grow(self, weights: toy.Weights, version: int, max_tokens: int) -> None:
        token, logprob = toy.sample(weights, self.last, self.draws.random())
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.versions.append(version)
        self.last = token
        if token == toy.EOS:
            self.finish_reason = "stop"
        elif len(self.ids) == max_tokens:
            self.finish_reason = "length"


class Request:
    """Children that are sampled in step."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        last = request.prompt.token_ids[-1]
        self.children = [_Child(request.seed + k, last) for k in range(request.num_samples)]
        self.aborted = False

    @property
    def growing(self) -> list[_Child]:
        return [child for child in self.children if not child.finish_reason]

    def episodes(self) -> tuple[Episode, ...]:
        prompt = self.request.prompt
        return tuple(
            episode(
                trajectory(
                    child.ids,
                    prompt_ids=prompt.token_ids,
                    versions=child.versions,
                    logprobs=child.logprobs,
                ),
                uid=prompt.uid,
                sample=k,
                finish_reason=child.finish_reason,
                text=" ".join(map(str, child.ids)),
                seed=child.seed,
            )
            for k, child in enumerate(self.children)
        )


class Engine:
    """The body of a generator's process."""

    def __init__(self, process: Process) -> None:
        self._process, self._world = process, process.world
        self._weights = toy.FIRST  # in the kernels
        self._loaded: toy.Weights | None = None
        self._committed: toy.Weights | None = None
        self._staged: toy.Weights | None = None
        self._version = self._version_before = 0
        self._pushing: int | None = None
        self._serving = asyncio.Event()
        self._serving.set()
        self._unpaused = asyncio.Event()
        self._unpaused.set()
        self._running: dict[str, Request] = {}
        self.requests: dict[Request, None] = {}  # in the scheduler, known by key or not
        self.num_preempted = 0

    async def setup(self) -> GeneratorInfo:
        await self._process.work(self._world.scenario.boot_s)
        return GeneratorInfo(
            max_model_len=64,
            dtype="float64",
            num_workers=self._world.scenario.workers,
            processes=(),
            host="here",
        )

    async def generate(self, request: GenerationRequest) -> tuple[Episode, ...]:
        await self._serving.wait()
        running = self._running[request.key] = Request(request)
        self.requests[running] = None
        self._world.checker.request_started(self._process.name, running, self)
        try:
            while running.growing:
                await self._process.work(self._world.token_s(request))
                await self._process.awake()
                if not running.aborted:
                    await self._unpaused.wait()
                if running.aborted:
                    raise RequestAborted(f"request {request.key} was given up")
                self._poisoned(request)
                for child in running.growing:
                    child.grow(self._weights, self._version, request.sampling.max_tokens)
        finally:
            self._running.pop(request.key, None)
            self.requests.pop(running, None)
        episodes = running.episodes()
        await self._serving.wait()
        if any(each.versions[-1] > self._version for each in episodes):
            raise RequestAborted(f"request {request.key} was sampled by a refused version")
        return episodes

    def _poisoned(self, request: GenerationRequest) -> None:
        training = request.key.startswith("train/")
        if training and parse_uid(request.prompt.uid)[1] in self._world.scenario.poison:
            self._process.die(f"poison {request.prompt.uid}")
            raise asyncio.CancelledError

    async def cancel(self, key: str) -> list[int]:
        await self._process.work(RPC_S)
        running = self._running.get(key)
        if running is None:
            return []
        running.aborted = True
        return [len(child.ids) for child in running.children]

    async def begin_push(self, version: int) -> None:
        if self._pushing == version:
            return
        if version <= self._version:
            raise WeightPushError(f"version {version} is not newer than {self._version}")
        self._pushing = version
        self._serving.clear()
        self._unpaused.clear()
        await self._process.work(RPC_S)
        self._staged = None

    async def receive(self, locator: Locator, *, first_rank: int, damage: bool = False) -> None:
        ranks = range(first_rank, first_rank + self._world.scenario.workers)
        staged = await self._world.payloads.fetch(locator, ranks, self._process)
        if damage:
            raise WeightPushError("checksum differs")
        self._staged = staged

    async def load(self, version: int, *, corrupt: bool = False) -> None:
        await self._process.work(self._world.scenario.load_s * self._world.spread())
        if self._staged is None:
            raise WeightPushError("no verified payload to load")
        self._loaded, self._staged = self._staged, None
        self._weights = toy.corrupted(self._loaded) if corrupt else self._loaded
        self._version_before, self._version = self._version, version
        self._unpaused.set()

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        await self._process.work(RPC_S)
        await self._unpaused.wait()
        return toy.probe(self._weights, sequences)

    async def commit_push(self, version: int) -> None:
        await self._process.work(RPC_S)
        self._world.point("commit_push")
        self._committed = self._loaded
        self._pushing = None
        self._serving.set()

    async def abort_push(self, version: int) -> int:
        if self._pushing is None:
            return self._version
        for running in self.requests:
            running.aborted = True
        await self._process.work(RPC_S)
        self._staged = None
        if self._committed is not None and self._loaded is not self._committed:
            self._loaded = self._weights = self._committed
        if self._version == version:
            if self._committed is None:
                raise WeightPushError("no committed version to go back to")
            self._version = self._version_before
        self._unpaused.set()
        self._pushing = None
        self._serving.set()
        return self._version

    async def health(self) -> Pulse:
        await self._process.work(RPC_S)
        load = Load(kv_use=0.5, num_preempted=self.num_preempted)
        return Pulse(version=self._version, load=load)

    async def close(self) -> None:
        for running in self.requests:
            running.aborted = True
        await self._process.work(RPC_S)
        self._process.kill()


class RemoteEngine:
    """The driver's end, with the deadlines of ``cluster.generators.RemoteGenerator``."""

    def __init__(self, world: Any, name: str) -> None:
        self.name = name
        self._world = world
        self.process = Process(world, name, alias="spawned")
        self.process.body = Engine(self.process)
        world.engines[name] = self.process

    async def setup(self) -> GeneratorInfo:
        return await self.process.call("setup", timeout_s=self._world.limits.setup_s)

    async def generate(self, request: GenerationRequest) -> tuple[Episode, ...]:
        limit_s = self._world.limits.request_s
        return await self.process.call("generate", request, timeout_s=limit_s)

    async def cancel(self, key: str) -> list[int]:
        return await self.process.call("cancel", key, timeout_s=self._world.limits.short_s)

    async def begin_push(self, version: int) -> None:
        await self._verb("begin_push", version)

    async def receive(self, locator: Locator, *, first_rank: int) -> None:
        await self._verb("receive", locator, first_rank=first_rank)

    async def load(self, version: int) -> None:
        await self._verb("load", version)

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return await self._verb("logprobs", sequences)

    async def commit_push(self, version: int) -> None:
        await self._verb("commit_push", version)

    async def abort_push(self, version: int) -> int:
        return await self._verb("abort_push", version)

    async def health(self) -> Pulse:
        return await self.process.call("health", timeout_s=self._world.limits.ping_s)

    async def close(self) -> None:
        await self.process.call("close", timeout_s=self._world.limits.short_s)

    async def kill(self) -> None:
        if self._world.scenario.poison or self._world.scenario.scale_requests:
            pass  # the prompt, or the person, is to blame
        else:
            self._world.checker.replaced("generator", "spawned")
        self.process.kill()
        await asyncio.sleep(RPC_S)  # what is left is reaped

    async def _verb(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        return await self.process.call(verb, *args, timeout_s=self._world.limits.call_s, **kwargs)
