"""The interface of a generator, for the collector, the weight bus and the evaluator.

Owns the contract; ``tests/rollout`` runs it on the vLLM engine and on the fake. Refuses to own
dispatch (dispatch.py) and versions (weights/bus.py). All methods are coroutines because generation
is concurrent. Invariant: a generator samples only from a version that it finished syncing, and
records it in the spans of every trajectory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import psutil

from rlpost.control.concurrency import Load
from rlpost.types import Episode, GenerationRequest
from rlpost.weights.kernel_digest import KernelDigest
from rlpost.weights.transports.protocol import Locator, Seat


@dataclass(frozen=True, kw_only=True)
class ProcessId:
    """A process of a host; the start time distinguishes it from a later one with the same pid."""

    pid: int
    started_s: float  # Unix time

    @classmethod
    def tree(cls, pid: int) -> "tuple[ProcessId, ...]":
        """Return this process and all its descendants."""
        parent = psutil.Process(pid)
        return tuple(
            cls(pid=process.pid, started_s=process.create_time())
            for process in (parent, *parent.children(recursive=True))
        )


@dataclass(frozen=True, kw_only=True)
class GeneratorInfo:
    """Properties of a generator that are known after set-up."""

    max_model_len: int  # tokens, prompt and response together
    dtype: str
    seat: Seat  # where its workers receive weights
    processes: tuple[ProcessId, ...]  # of the engine, parents first
    host: str


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """A generator's answer to a ping, which proves that its engine works."""

    version: int  # served
    load: Load


class Generator(Protocol):
    """One inference engine."""

    async def setup(self) -> GeneratorInfo:
        """Start the engine; idempotent."""

    async def generate(self, request: GenerationRequest) -> tuple[Episode, ...]:
        """Sample ``request.num_samples`` responses, each an episode of one trajectory.

        Raises:
            ProcessDied: the engine died; the request may be retried elsewhere.
            RequestAborted: cancelled by a push that was rolled back.
        """

    async def cancel(self, key: str) -> list[int]:
        """Cancel a request; return the number of tokens of each response so far, if it ran."""

    async def sleep(self) -> None:
        """Leave the device, weights and all; the next push brings it back. Idempotent.

        What runs is given up, and new requests wait. Verbs of a push bring back what they need,
        an abort as well.
        """

    async def begin_push(self, version: int) -> None:
        """Pause generation; new requests wait. Idempotent for the same version."""

    async def receive(self, locator: Locator, *, first_rank: int) -> None:
        """Fetch a payload and verify it, each part before it reaches the model.

        Args:
            locator: where the payload is.
            first_rank: rank of this generator's first worker in the transfer group.

        Raises:
            WeightPushError: the payload is incomplete, damaged or unreachable.
        """

    async def load(self, version: int) -> None:
        """Have the model compute what was received; for probes alone until it is committed."""

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability (nats, temperature 1) of every token after the first."""

    async def kernel_digest(self) -> KernelDigest:
        """What its kernels hold; equal to that of an engine alike which holds the same."""

    async def commit_push(self, version: int) -> None:
        """Serve the loaded version from now on."""

    async def abort_push(self, version: int) -> int:
        """Roll back to the committed version and serve it; return its number.

        Raises:
            WeightPushError: it is not at hand any more; requests wait for the next push.
        """

    async def health(self) -> Pulse:
        """Answer through the engine's own loop, so that an engine that hangs does not answer.

        Raises:
            ProcessDied: the engine is dead.
        """

    async def close(self) -> None:
        """Abort running requests and shut down."""


class RestartableGenerator(Generator, Protocol):
    """A generator as the owner of its process sees it."""

    async def kill(self) -> None:
        """Kill its processes; the object cannot be used afterwards."""
