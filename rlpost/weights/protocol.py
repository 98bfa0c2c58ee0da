"""The nouns of a push: who takes part, what is allowed, what it cost and how it is judged.

Owns both ends' protocols, the bus's settings, the report and the measure of the probe. Refuses
to own the transaction (bus.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rlpost.weights.kernel_digest import KernelDigest
from rlpost.weights.transports.protocol import Locator, Seat

FLOAT32_MAX_DIFF = 1e-3
REDUCED_MEAN_DIFF = 0.1
QUANTIZED_MEAN_DIFF = 0.3


class Publisher(Protocol):
    """The trainer, as the bus sees it; raises GroupLost when it is gone."""

    async def stage(self, version: int, *, seats: Sequence[Seat]) -> Locator:
        """Have the current weights be ``version``, for the generators on these seats."""

    async def announce_again(self, *, seats: Sequence[Seat]) -> Locator | None:
        """Make the newest payload fetchable once more, from these seats.

        Returns:
            None if it is gone: it was streamed, and the trainer has learned since.
        """

    async def send(self) -> float | None:
        """Take part in the transfer of what was announced last.

        Returns:
            The merge error of what was sent; see ``publisher.ServedWeights``.
        """

    async def release(self, version: int) -> None:
        """Free the payload of ``version``."""

    async def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-prob (nats, temperature 1) of every token after the first."""


class PushTarget(Protocol):
    """A generator, as the bus sees it: a subset of ``rollout.protocol.RestartableGenerator``."""

    async def sleep(self) -> None: ...
    async def begin_push(self, version: int) -> None: ...
    async def receive(self, locator: Locator, *, first_rank: int) -> None: ...
    async def load(self, version: int) -> None: ...
    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]: ...
    async def kernel_digest(self) -> KernelDigest: ...
    async def commit_push(self, version: int) -> None: ...
    async def abort_push(self, version: int) -> int: ...
    async def kill(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class PushReport:
    """What one committed push cost and how well both sides agree."""

    version: int
    size_bytes: int
    push_s: float  # everything, refused attempts included
    stage_s: float  # trainer writes the payload, or announces it
    load_s: float  # generators fetch, verify and load; what is streamed is gathered meanwhile
    probe_s: float
    probe_logprob_diff_mean: float  # nats
    probe_logprob_diff_max: float
    merge_error: float | None = None  # see ``publisher.ServedWeights``
    compared: int = 0  # engines whose kernels were compared with each other
    compare_s: float = 0.0
    differed: int = 0  # of those compared, in refused attempts too

    def metrics(self) -> dict[str, float]:
        merged = {} if self.merge_error is None else {"weights/merge_error": self.merge_error}
        compared = {
            "weights/engines_compared": float(self.compared),
            "weights/engines_differed": float(self.differed),
            "weights/compare_s": self.compare_s,
        }
        return (
            merged
            | (compared if self.compared else {})
            | {
                "weights/version": float(self.version),
                "weights/bytes": float(self.size_bytes),
                "weights/push_s": self.push_s,
                "weights/stage_s": self.stage_s,
                "weights/load_s": self.load_s,
                "weights/probe_s": self.probe_s,
                "weights/probe_logprob_diff_mean": self.probe_logprob_diff_mean,
                "weights/probe_logprob_diff_max": self.probe_logprob_diff_max,
            }
        )


@dataclass(frozen=True, kw_only=True)
class BusConfig:
    """Deadlines and the bound of the probe, resolved."""

    exact: bool  # whether both sides compute in float32
    quantized: bool = False  # whether generators compute in fewer bits than their dtype
    max_diff: float | None = None  # overrides the bound of the probe, in nats
    timeout_s: float = 120.0  # deadline of each phase
    busy_s: float = 1800.0  # that the trainer may take to finish what it is at
    boot_timeout_s: float = 600.0  # deadline of waiting for any generator at all
    compare_every: int | None = None  # pushes between comparisons of the engines; None: none
    attempts: int = 3  # pushes of one set of weights before the run gives up

    def __post_init__(self) -> None:
        assert not (self.exact and self.quantized), self

    @property
    def bound(self) -> float:
        """Nats: of the largest difference where both sides are exact, else of the mean."""
        if self.max_diff is not None:
            return self.max_diff
        if self.quantized:
            return QUANTIZED_MEAN_DIFF
        return FLOAT32_MAX_DIFF if self.exact else REDUCED_MEAN_DIFF
