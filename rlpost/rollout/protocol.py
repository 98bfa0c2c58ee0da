"""What the collector, the bus and the evaluator may ask of a generator.

Owns the contract; ``tests/rollout`` runs it on the vLLM engine and on the fake. Refuses to
own dispatch (collector.py) and versions (weights/bus.py). All verbs are coroutines because
generation is concurrent. Invariant: a generator samples only from a version it finished
syncing, and says so in every trajectory's spans.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import psutil

from rlpost.control.concurrency import Load
from rlpost.types import GenerationRequest, Trajectory
from rlpost.weights.transports.protocol import Locator


@dataclass(frozen=True, kw_only=True)
class ProcessId:
    """A process of some host; the time tells it from a later one with its number."""

    pid: int
    started_s: float  # Unix time

    @classmethod
    def tree(cls, pid: int) -> "tuple[ProcessId, ...]":
        """This process and all below it."""
        parent = psutil.Process(pid)
        return tuple(
            cls(pid=process.pid, started_s=process.create_time())
            for process in (parent, *parent.children(recursive=True))
        )


@dataclass(frozen=True, kw_only=True)
class GeneratorInfo:
    """What a generator turned out to be after set-up."""

    max_model_len: int  # tokens, prompt and response together
    dtype: str
    num_workers: int  # processes that receive weights
    processes: tuple[ProcessId, ...]  # of the engine, parents first
    host: str


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """A generator's answer to a ping: its engine did something a moment ago."""

    version: int  # served
    load: Load


class Generator(Protocol):
    """One inference engine."""

    async def setup(self) -> GeneratorInfo:
        """Boot; idempotent."""

    async def generate(self, request: GenerationRequest) -> tuple[Trajectory, ...]:
        """Sample ``request.num_samples`` responses.

        Raises:
            ProcessDied: the engine died; the request may be retried elsewhere.
            RequestAborted: thrown away by a refused push.
        """

    async def cancel(self, key: str) -> list[int]:
        """Give up a request; returns the tokens each response had so far, if it ran."""

    async def begin_push(self, version: int) -> None:
        """Pause; new requests wait. Repeating the same version is harmless."""

    async def receive(self, locator: Locator, *, first_rank: int) -> None:
        """Fetch and verify a payload without touching the model.

        Args:
            locator: where the payload is.
            first_rank: rank of this generator's first worker in the transfer group.

        Raises:
            WeightPushError: incomplete, damaged or unreachable.
        """

    async def load(self, version: int) -> None:
        """Put the received payload into the model. Requests stay paused."""

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability (nats, temperature 1) of every token after the first."""

    async def commit_push(self, version: int) -> None:
        """Serve the loaded version from now on."""

    async def abort_push(self, version: int) -> int:
        """Go back to the committed version and serve it; return its number."""

    async def health(self) -> Pulse:
        """Answer through the engine's own loop, so that a hung engine does not answer.

        Raises:
            ProcessDied: the engine is dead.
        """

    async def close(self) -> None:
        """Abort what runs and shut down."""


class RestartableGenerator(Generator, Protocol):
    """A generator as whoever started its process sees it."""

    async def kill(self) -> None:
        """End its processes whatever they are doing; the object is useless afterwards."""
