"""How a payload gets from the sending rank into a generator's worker process.

Owns the contract that every transport keeps and that ``tests/weights`` runs on each of them.
Refuses to own what a payload consists of (manifest.py, buckets.py). A sender either *stages* a
payload, so that it lies somewhere whole and can be fetched at any time, or *streams* it, bucket by
bucket, while it is gathered. Invariant: whoever receives has verified what it hands on, before it
hands it on.

A locator is the small JSON-able record that travels by RPC. Streaming blocks until all receivers
took part, so the driver starts the receivers' RPC first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from rlpost.weights.buckets import NamedTensors
from rlpost.weights.manifest import PushManifest, Tensors


@dataclass(frozen=True, kw_only=True)
class Seat:
    """Where a generator receives weights.

    Example: ``Seat(memory="n1 6f1d... 24", num_workers=2)``
    """

    memory: str  # the shared memory of its host; see ``shared_memory_id``
    num_workers: int  # processes that receive
    gpus: tuple[str, ...] = ()  # of these, in their order; none where they compute on CPUs


@dataclass(frozen=True, kw_only=True)
class Locator:
    """Where version ``manifest.version`` can be fetched.

    Example: ``Locator(transport="shared_memory", manifest={...}, where={"path": "..."})``
    """

    transport: str
    manifest: dict[str, Any]
    where: dict[str, Any] = field(default_factory=dict)
    repeatable: bool = True  # can be fetched at any time, without the sender
    live: bool = False  # every rank of the trainer takes part in sending: it gathers meanwhile
    memory: str | None = None  # whoever fetches it must see this; None: whoever reaches the sender

    def reaches(self, seat: Seat) -> bool:
        """Whether a generator on ``seat`` can fetch it at any time, without the sender."""
        return self.repeatable and self.memory in (None, seat.memory)


class StagedSender(Protocol):
    """Lives in the sending trainer rank; its payloads lie somewhere until they are released."""

    def buffer(self, size_bytes: int, *, version: int) -> torch.Tensor:
        """Return a writable uint8 CPU tensor for the next payload."""

    def announce(self, manifest: PushManifest, *, seats: Sequence[Seat]) -> Locator:
        """Make the written payload fetchable from these seats; say where it is."""

    def release(self, version: int) -> None:
        """Free what belongs to ``version``; harmless when it is gone already."""

    def close(self) -> None:
        """Free everything."""


class StreamingSender(Protocol):
    """Lives in the sending trainer rank, and holds two buckets at most."""

    def announce(self, manifest: PushManifest, *, seats: Sequence[Seat]) -> Locator:
        """Say how workers on these seats will receive, which are the ranks from 1 on in order."""

    def send(self, tensors: NamedTensors) -> None:
        """Send what was announced last; returns when the bytes left.

        Raises:
            WeightPushError: somebody did not take part, or these are not those tensors. Everybody
                else was told.
        """

    def close(self) -> None:
        """Free everything."""


class Receiver(Protocol):
    """Lives in the generator's worker process."""

    def buckets(self, locator: Locator) -> Iterator[Tensors]:
        """Yield a payload's tensors in order, each part verified before it is yielded.

        What was yielded is valid until the next part is asked for: a copy must be made of what is
        needed longer.

        Raises:
            WeightPushError: incomplete, damaged or unreachable.
        """

    def close(self) -> None:
        """Drop connections."""
