"""Generators in Ray actors, behind ``rollout.protocol.Generator``."""

from collections.abc import Sequence

from rlpost.cluster.handle import Handle
from rlpost.cluster.session import Device, Session
from rlpost.rollout.protocol import GeneratorInfo
from rlpost.rollout.vllm_generator import GeneratorConfig, VllmGenerator
from rlpost.types import GenerationRequest, Trajectory
from rlpost.weights.transports.protocol import Locator

CONCURRENCY = 10_000  # requests wait in vLLM's scheduler, not in Ray's queue


class RemoteGenerator:
    """The driver's end of one generator actor."""

    def __init__(self, handle: Handle, cfg: GeneratorConfig) -> None:
        self._handle = handle
        self._cfg = cfg
        self.name = handle.name

    async def setup(self) -> GeneratorInfo:
        return await self._handle.call("setup", timeout_s=self._cfg.setup_timeout_s)

    async def generate(self, request: GenerationRequest) -> tuple[Trajectory, ...]:
        return await self._handle.call("generate", request, timeout_s=self._cfg.request_timeout_s)

    async def begin_push(self, version: int) -> None:
        await self._handle.call("begin_push", version)

    async def receive(self, locator: Locator, *, first_rank: int) -> None:
        await self._handle.call("receive", locator, first_rank=first_rank)

    async def load(self, version: int) -> None:
        await self._handle.call("load", version)

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return await self._handle.call("logprobs", sequences)

    async def commit_push(self, version: int) -> None:
        await self._handle.call("commit_push", version)

    async def abort_push(self, version: int) -> int:
        return await self._handle.call("abort_push", version)

    async def health(self) -> int:
        return await self._handle.call("health", timeout_s=30)

    async def close(self) -> None:
        await self._handle.call("close", timeout_s=30)


def spawn_generators(
    session: Session,
    cfg: GeneratorConfig,
    *,
    model_path: str,
    device: Device,
    call_timeout_s: float,
) -> dict[str, RemoteGenerator]:
    """Create ``cfg.num`` generator actors; call ``setup`` on each to boot it."""
    generators = {}
    for index in range(cfg.num):
        actor = session.spawn(
            VllmGenerator,
            cfg,
            model_path=model_path,
            num_gpus=cfg.tensor_parallel_size if device is Device.cuda else 0,
            concurrency=CONCURRENCY,
        )
        name = f"generator {index}"
        generators[name] = RemoteGenerator(Handle(actor, name=name, timeout_s=call_timeout_s), cfg)
    return generators
