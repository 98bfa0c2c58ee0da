"""Generators in Ray actors, behind ``rollout.protocol.RestartableGenerator``."""

from collections.abc import Sequence
from typing import Any

from rlpost.cluster.handle import Handle
from rlpost.cluster.reaper import reap_on
from rlpost.cluster.session import Session
from rlpost.rollout.engine_generator import EngineGenerator
from rlpost.rollout.generator_config import AdapterCapacity, GeneratorConfig
from rlpost.rollout.protocol import GeneratorInfo, Pulse
from rlpost.types import Episode, GenerationRequest
from rlpost.weights.deadline import CALL_S
from rlpost.weights.kernel_digest import KernelDigest
from rlpost.weights.transports.protocol import Locator

CONCURRENCY = 10_000  # requests wait in the engine's scheduler, not in Ray's queue


class RemoteGenerator:
    """The driver's end of one generator actor."""

    def __init__(self, handle: Handle, cfg: GeneratorConfig, *, ping_timeout_s: float) -> None:
        self._handle = handle
        self._cfg = cfg
        self._ping_timeout_s = ping_timeout_s
        self._info: GeneratorInfo | None = None
        self.name = handle.name

    async def setup(self) -> GeneratorInfo:
        info = await self._handle.call("setup", timeout_s=self._cfg.setup_timeout_s)
        self._info = info
        return info

    async def generate(self, request: GenerationRequest) -> tuple[Episode, ...]:
        return await self._handle.call("generate", request, timeout_s=self._cfg.request_timeout_s)

    async def cancel(self, key: str) -> list[int]:
        return await self._handle.call("cancel", key, timeout_s=30)

    async def sleep(self) -> None:
        await self._pushed("sleep")

    async def begin_push(self, version: int) -> None:
        await self._pushed("begin_push", version)

    async def receive(self, locator: Locator, *, first_rank: int) -> None:
        await self._pushed("receive", locator, first_rank=first_rank)

    async def load(self, version: int) -> None:
        await self._pushed("load", version)

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return await self._pushed("logprobs", sequences)

    async def kernel_digest(self) -> KernelDigest:
        return await self._pushed("kernel_digest")

    async def commit_push(self, version: int) -> None:
        await self._pushed("commit_push", version)

    async def abort_push(self, version: int) -> int:
        return await self._pushed("abort_push", version)

    async def _pushed(self, verb: str, *args: Any, **options: Any) -> Any:
        """Call a verb of a push, whose deadline is that of the bus."""
        return await self._handle.call(verb, *args, timeout_s=CALL_S, **options)

    async def health(self) -> Pulse:
        return await self._handle.call("health", timeout_s=self._ping_timeout_s)

    async def close(self) -> None:
        await self._handle.call("close", timeout_s=30)

    async def kill(self) -> None:
        self._handle.kill()
        if self._info is not None:
            await reap_on(self._info.host, self._info.processes)


class GeneratorFactory:
    """Starts generator actors by name, in the slot of that name; ``setup`` boots them."""

    def __init__(
        self,
        session: Session,
        cfg: GeneratorConfig,
        *,
        model_path: str,
        adapters: AdapterCapacity | None = None,
        blank: bool = False,
        call_timeout_s: float,
        ping_timeout_s: float,
    ) -> None:
        self._adapters = adapters
        self._blank = blank
        self._session = session
        self._cfg = cfg
        self._model_path = model_path
        self._call_timeout_s = call_timeout_s
        self._ping_timeout_s = ping_timeout_s

    def __call__(self, name: str) -> RemoteGenerator:
        actor = self._session.spawn(
            EngineGenerator,
            self._cfg,
            model_path=self._model_path,
            adapters=self._adapters,
            blank=self._blank,
            slot=name,
            concurrency=CONCURRENCY,
        )
        handle = Handle(actor, name=name, timeout_s=self._call_timeout_s)
        return RemoteGenerator(handle, self._cfg, ping_timeout_s=self._ping_timeout_s)
