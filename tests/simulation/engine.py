"""A simulated inference engine: it truly samples from the weights it holds.

Mirrors ``rollout/engine_generator.py`` verb by verb; what a push does to the weights is in
``kernels.py``. Every sampled token notes the version that the engine said it served.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from episodes import episode, trajectory
from simulation import toy
from simulation.kernels import RPC_S, Adapters, Whole
from simulation.process import Process

from rlpost.control.concurrency import Load
from rlpost.data.cursor import parse_uid
from rlpost.errors import RequestAborted
from rlpost.rollout.adapter_pushes import AdapterPushes
from rlpost.rollout.protocol import GeneratorInfo, Pulse
from rlpost.rollout.pushes import Admitted
from rlpost.types import Episode, GenerationRequest
from rlpost.weights.kernel_digest import KernelDigest
from rlpost.weights.transports.protocol import Locator, Seat


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

    def __init__(self, request: GenerationRequest, request_id: str) -> None:
        self.request, self.id = request, request_id
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
        capacity = self._world.scenario.capacity
        self._kernels: Whole | Adapters = (
            Adapters(process, self) if capacity else Whole(process, self)
        )
        self._pushes: Whole | AdapterPushes = (
            self._kernels
            if isinstance(self._kernels, Whole)
            else AdapterPushes(self._kernels, capacity=capacity)
        )
        self._num_requests = 0
        self._running: dict[str, Request] = {}
        self.requests: dict[Request, None] = {}  # in the scheduler, known by key or not
        self.num_preempted = 0

    @property
    def on_device(self) -> bool:
        return self._kernels.on_device

    async def setup(self) -> GeneratorInfo:
        self._world.checker.takes_device(self._process.name, others=self._world.learners)
        await self._process.work(self._world.scenario.boot_s)
        return GeneratorInfo(
            max_model_len=64,
            dtype="float64",
            seat=Seat(memory=self._process.name, num_workers=self._world.scenario.workers),
            processes=(),
            host="here",
        )

    @property
    def serves(self) -> tuple[int, toy.Weights | None]:
        """What a request that begins samples from."""
        admitted = self._enter()
        self._pushes.leave(admitted)
        return self._kernels.sampled_from(admitted)

    def _enter(self, *, probes: bool = False) -> Admitted:
        self._num_requests += 1
        return self._pushes.enter(f"r{self._num_requests}", probes=probes)

    async def generate(self, request: GenerationRequest) -> tuple[Episode, ...]:
        await self._pushes.serving()
        self._world.checker.request_started(self._process.name, self)
        admitted = self._enter()
        running = self._running[request.key] = Request(request, admitted.request_id)
        self.requests[running] = None
        try:
            while running.growing:
                await self._process.work(self._world.token_s(request))
                await self._process.awake()
                if not running.aborted:
                    await self._kernels.unpaused.wait()
                if running.aborted:
                    raise RequestAborted(f"request {request.key} was given up")
                self._poisoned(request)
                version, weights = self._kernels.sampled_from(admitted)
                for child in running.growing:
                    child.grow(weights, version, request.sampling.max_tokens)
        finally:
            self._pushes.leave(admitted)
            self._running.pop(request.key, None)
            self.requests.pop(running, None)
        episodes = running.episodes()
        await self._pushes.serving()
        if self._pushes.refuses(version for each in episodes for version in each.versions):
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

    async def sleep(self) -> None:
        await self._pushes.sleep()

    async def begin_push(self, version: int) -> None:
        await self._pushes.begin(version)

    async def receive(self, locator: Locator, *, first_rank: int, damage: bool = False) -> None:
        self._kernels.damage = damage
        await self._pushes.receive(locator, first_rank=first_rank)

    async def load(self, version: int, *, corrupt: bool = False) -> None:
        self._kernels.corrupt = corrupt
        await self._pushes.load(version)

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        admitted = self._enter(probes=True)
        try:
            await self._process.work(RPC_S)
            await self._kernels.unpaused.wait()
            return toy.probe(self._kernels.sampled_from(admitted)[1], sequences)
        finally:
            self._pushes.leave(admitted)

    async def kernel_digest(self) -> KernelDigest:
        held = str(self._kernels.sampled_from(self._enter(probes=True))[1])
        return KernelDigest(layouts=("toy",), contents=(held,))

    async def commit_push(self, version: int) -> None:
        await self._process.work(RPC_S)
        self._world.point("commit_push")
        await self._pushes.commit(version)

    async def abort_push(self, version: int) -> int:
        return await self._pushes.abort(version)

    async def health(self) -> Pulse:
        await self._process.work(RPC_S)
        load = Load(kv_use=0.5, num_preempted=self.num_preempted)
        return Pulse(version=self._pushes.version, load=load)

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

    async def sleep(self) -> None:
        await self._verb("sleep")

    async def begin_push(self, version: int) -> None:
        await self._verb("begin_push", version)

    async def kernel_digest(self) -> KernelDigest:
        return await self._verb("kernel_digest")

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
