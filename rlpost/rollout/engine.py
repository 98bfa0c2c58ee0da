"""An inference engine, as a generator sees it: the verbs that every backend offers.

Owns the protocol that ``engine_generator.py`` drives. Refuses to own the order of a push
(whole_pushes.py). ``vllm/sampler.py`` and ``sglang/engine.py`` keep it.
Invariant: whichever verb is the first to learn that the engine is dead raises ``ProcessDied``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rlpost.control.concurrency import Load
from rlpost.rollout.pushes import Admitted
from rlpost.rollout.sampled import Sampled
from rlpost.types import GenerationRequest
from rlpost.weights.kernel_digest import KernelDigest
from rlpost.weights.manifest import Shape
from rlpost.weights.transports.protocol import Locator


@dataclass(frozen=True, kw_only=True)
class Booted:
    """What is known of an engine once it is up."""

    max_model_len: int  # tokens, prompt and response together
    dtype: str
    num_receivers: int  # processes of it that receive weights
    gpus: tuple[str, ...] = ()  # of these, in their order; none where they compute on CPUs


WEIGHTS, KV_CACHE = "weights", "kv_cache"  # parts of an engine's memory on its device


class ModelHolder(Protocol):
    """The engine, as pushes of whole models see it."""

    async def sleep(self) -> None:
        """Pause, end all requests and leave the device; what weights and cache held is lost.

        It may have left in part already: the rest leaves.
        """

    async def bring_back(self, part: str) -> None:
        """Have ``WEIGHTS`` or ``KV_CACHE`` on the device again; it is undefined what they hold."""

    async def begin_update(self) -> None:
        """Pause, with all requests kept, and be ready to receive."""

    async def receive_model(self, locator: Locator, *, first_rank: int) -> None:
        """Load a payload as it arrives, each part of it once it is verified.

        Raises:
            WeightPushError: it was refused; ``restore_model`` comes next.
        """

    async def load_model(self, version: int) -> None:
        """Compute with the received payload and call it ``version``.

        Raises:
            WeightPushError: it was refused.
        """

    async def resume(self) -> None:
        """Let kept requests go on, and take new ones."""

    async def commit_model(self) -> None:
        """Make what was loaded last the version to go back to."""

    async def end_requests(self) -> None:
        """Pause, and end all requests; whoever waits for one gets what was sampled."""

    async def kernel_digest(self) -> KernelDigest:
        """What its kernels hold; see ``protocol.Generator``."""

    async def restore_model(self, version: int) -> bool:
        """Go back to what was committed, called ``version``; returns whether it is at hand."""


class Engine(ModelHolder, Protocol):
    """One engine, from its boot to its end."""

    async def boot(self, model: Mapping[str, Shape]) -> Booted:
        """Start it for a model of these tensors.

        Raises:
            ProcessDied: it did not come up.
        """

    async def sample(self, request: GenerationRequest, admitted: Admitted) -> list[Sampled]:
        """Sample the responses of a request, in their order.

        Raises:
            RequestAborted: the engine ended it without a result.
        """

    async def score(self, token_ids: Sequence[int], admitted: Admitted) -> list[float]:
        """Log-prob, in nats at temperature 1, of every token after the first."""

    async def abort(self, request_ids: Iterable[str]) -> None:
        """End requests; whoever waits for one gets what was sampled."""

    async def check(self) -> Load:
        """Answer through the engine's own loop, down to its workers."""

    async def shut_down(self) -> None:
        """End all requests and all processes."""
