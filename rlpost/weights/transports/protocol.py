"""How a payload gets from the sending rank into a generator's worker process.

Owns the contract that every transport keeps and that ``tests/weights`` runs on each of
them. Refuses to own verification: both ends share ``manifest.py``.

A locator is the small JSON-able record that travels by RPC. ``send`` may block until all
receivers took part (gloo), so the driver starts the receivers' RPC first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from rlpost.weights.manifest import PushManifest


@dataclass(frozen=True, kw_only=True)
class Seat:
    """Where a generator receives weights.

    Example: ``Seat(memory="n1 6f1d... 24", num_workers=2)``
    """

    memory: str  # the shared memory of its host; see ``shared_memory_id``
    num_workers: int  # processes that receive


@dataclass(frozen=True, kw_only=True)
class Locator:
    """Where version ``manifest.version`` can be fetched.

    Example: ``Locator(transport="shared_memory", manifest={...}, where={"path": "..."})``
    """

    transport: str
    manifest: dict[str, Any]
    where: dict[str, Any] = field(default_factory=dict)
    repeatable: bool = True  # can be fetched at any time, without the sender
    memory: str | None = None  # whoever fetches it must see this; None: whoever reaches the sender

    def reaches(self, seat: Seat) -> bool:
        """Whether a generator on ``seat`` can fetch it at any time, without the sender."""
        return self.repeatable and self.memory in (None, seat.memory)


class Sender(Protocol):
    """Lives in the sending trainer rank."""

    def buffer(self, size_bytes: int, *, version: int) -> torch.Tensor:
        """Return a writable uint8 CPU tensor for the next payload."""

    def announce(self, manifest: PushManifest, *, seats: Sequence[Seat]) -> Locator:
        """Make the written payload fetchable from these seats, in the order of ranks; say where.

        The sender is rank 0, and the workers of the first seat are the ranks from 1 on.
        """

    def send(self) -> None:
        """Take part in the transfer; returns when the bytes left or raises."""

    def release(self, version: int) -> None:
        """Free what belongs to ``version``; harmless when it is gone already."""

    def close(self) -> None:
        """Free everything."""


class Receiver(Protocol):
    """Lives in the generator's worker process."""

    def fetch(self, locator: Locator) -> torch.Tensor:
        """Return the payload as a uint8 CPU tensor.

        It can be read as long as it is referenced. A later payload may take its place once the
        sender released the version, or, away from the sender's host, as soon as one is fetched;
        its checksums show that.
        """

    def close(self) -> None:
        """Drop connections."""
