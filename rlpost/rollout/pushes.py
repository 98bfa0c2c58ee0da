"""What a generator and its pushes agree on.

Owns the protocol between them. Two implementations keep it: ``whole_pushes.py`` replaces the
model while the scheduler is paused, ``adapter_pushes.py`` adds an adapter while it goes on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from rlpost.rollout.sampled import Sampled
from rlpost.types import Span
from rlpost.weights.manifest import Shape
from rlpost.weights.transports.protocol import Locator

BASE_VERSION = 0  # what the engine loaded from disk, before the first push


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """What a request begins to sample from.

    Example: ``Admitted(request_id="r3", version=5, adapter=5)``
    """

    request_id: str
    version: int
    adapter: int | None = None  # id of the adapter; None: the model itself

    @property
    def salt(self) -> str:
        """Keeps prefixes apart that other weights have cached."""
        return f"v{self.version}"


class Pushes(Protocol):
    """Takes pushes, and tells requests what they sample from."""

    version: int  # the newest that requests sample from, or will

    def expect(self, model: Mapping[str, Shape]) -> None:
        """Learn the tensors of the model that receives."""

    async def serving(self) -> None:
        """Wait until requests may begin, and until what they have sampled counts."""

    def enter(self, request_id: str, *, probes: bool = False) -> Admitted:
        """Begin a request; one that probes samples from what was loaded last."""

    def leave(self, admitted: Admitted) -> None:
        """End a request, however it ended."""

    def spans(self, child: Sampled, admitted: Admitted) -> tuple[Span, ...]:
        """Return which versions sampled a response."""

    def refuses(self, versions: Iterable[int]) -> bool:
        """Whether one of these was sampled from and then refused."""

    async def sleep(self) -> None:
        """Leave the device, weights and all, until the next push; what runs is given up."""

    async def begin(self, version: int) -> None:
        """Prepare for a push. Idempotent for the same version."""

    async def receive(self, locator: Locator, *, first_rank: int) -> None:
        """Fetch a payload and verify it; see ``protocol.Generator``."""

    async def load(self, version: int) -> None:
        """Make the payload computable; until it is committed, for probes alone."""

    async def commit(self, version: int) -> None:
        """Have requests sample from it."""

    async def abort(self, version: int) -> int:
        """Go back to what was committed; returns its number."""
