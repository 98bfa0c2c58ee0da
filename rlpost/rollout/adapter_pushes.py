"""Pushes of adapters into an engine that never stops: versions live side by side.

Owns which versions the engine holds and which requests sample from each. Refuses to own how an
adapter gets into the kernels (weights/vllm_adapters.py). Invariants: a request keeps the version
it began with to its end; an adapter leaves the engine only when no request holds it, and none
enters while there is no room, so the engine never evicts one by itself; what was not committed is
sampled by nobody but the probe.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from rlpost.errors import WeightPushError
from rlpost.rollout.pushes import BASE_VERSION, Admitted
from rlpost.rollout.sampled import Sampled
from rlpost.types import Span
from rlpost.weights.adapter import refuse_other_adapter
from rlpost.weights.manifest import PushManifest, Shape
from rlpost.weights.transports.protocol import Locator

ABORT_AGAIN_S = 0.2  # a request that is on its way into the engine cannot be aborted yet


class AdapterHolder(Protocol):
    """The engine, as adapters see it."""

    async def receive_adapter(self, locator: Locator, *, first_rank: int) -> None:
        """Fetch, verify and prepare an adapter beside those that the engine holds."""

    async def load_adapter(self, version: int, *, keep: Sequence[int]) -> None:
        """Hold the adapter that was received as ``version``, and of the others only ``keep``."""

    async def keep_adapters(self, keep: Sequence[int]) -> None:
        """Hold no other adapters than these."""

    async def abort(self, request_ids: Iterable[str]) -> None:
        """End requests; whoever waits for one gets what was sampled."""


class AdapterPushes:
    """See ``pushes.Pushes``.

    Args:
        holder: the engine.
        capacity: versions that it can hold at once.
    """

    def __init__(self, holder: AdapterHolder, *, capacity: int) -> None:
        self._holder = holder
        self._capacity = capacity
        self._model: Mapping[str, Shape] = {}
        self.version = BASE_VERSION
        self._pushing: int | None = None
        self._loaded: int | None = None
        self._holders: dict[int, set[str]] = {}  # version -> requests that sample from it
        self._left = asyncio.Event()  # a request has ended

    def expect(self, model: Mapping[str, Shape]) -> None:
        self._model = model

    # -- requests -------------------------------------------------------------------------

    async def serving(self) -> None:
        """Requests never wait for a push."""

    def enter(self, request_id: str, *, probes: bool = False) -> Admitted:
        version = self._loaded if probes and self._loaded is not None else self.version
        self._holders.setdefault(version, set()).add(request_id)
        return Admitted(
            request_id=request_id,
            version=version,
            adapter=None if version == BASE_VERSION else version,
        )

    def leave(self, admitted: Admitted) -> None:
        held = self._holders[admitted.version]
        held.discard(admitted.request_id)
        if not held:
            del self._holders[admitted.version]
        self._left.set()

    def spans(self, child: Sampled, admitted: Admitted) -> tuple[Span, ...]:
        """One span: vLLM's own follow the base's weights, which do not change."""
        num_tokens = len(child.token_ids)
        return (Span(start=0, end=num_tokens, version=admitted.version),) if num_tokens else ()

    def refuses(self, versions: Iterable[int]) -> bool:
        """Requests that count never sample from what was not committed."""
        return False

    # -- pushes ---------------------------------------------------------------------------

    async def sleep(self) -> None:
        raise WeightPushError("no push of an adapter brings back the base of an engine that slept")

    async def begin(self, version: int) -> None:
        if self._pushing == version:
            return
        if version <= self.version:
            raise WeightPushError(f"version {version} is not newer than {self.version}")
        await self._undo()
        self._pushing = version

    async def receive(self, locator: Locator, *, first_rank: int) -> None:
        manifest = PushManifest.from_dict(locator.manifest)
        if manifest.adapter is None:
            raise WeightPushError(
                f"version {manifest.version} is a whole model, and this engine takes adapters"
            )
        refuse_other_adapter(manifest, self._model)
        await self._holder.receive_adapter(locator, first_rank=first_rank)

    async def load(self, version: int) -> None:
        await self._make_room()
        await self._holder.load_adapter(version, keep=self._needed())
        self._loaded = version

    async def commit(self, version: int) -> None:
        if self._loaded != version:
            raise WeightPushError(f"version {version} was not loaded")
        self.version = version
        self._pushing = self._loaded = None

    async def abort(self, version: int) -> int:
        await self._undo()
        return self.version

    async def _undo(self) -> None:
        """Take back a push that was not committed; harmless when there is none."""
        if self._pushing is None:
            return
        if self._loaded is not None:
            await self._give_up(self._loaded)  # a probe that is still under way
            self._loaded = None
        await self._holder.keep_adapters(self._needed())
        self._pushing = None

    def _needed(self) -> list[int]:
        """Versions that requests sample from, or will."""
        return sorted({self.version, *self._holders} - {BASE_VERSION})

    async def _make_room(self) -> None:
        """Give up the requests of the oldest versions, if nothing less makes room for one more.

        There is room for as many versions as training may lag: what is given up here is older.
        """
        while len(needed := self._needed()) >= self._capacity:
            oldest = min(version for version in needed if version != self.version)
            await self._give_up(oldest)

    async def _give_up(self, version: int) -> None:
        while version in self._holders:
            self._left.clear()
            await self._holder.abort(sorted(self._holders[version]))
            try:
                await asyncio.wait_for(self._left.wait(), ABORT_AGAIN_S)
            except TimeoutError:
                continue
