"""Pushes of whole models: the scheduler pauses, the weights change under what it keeps.

Owns the order of the verbs of ``engine.ModelHolder``. Refuses to own what they do to an engine.
Invariants: the model is only touched while the engine is paused, by ``receive`` already; tokens of
a version that is loaded and not committed count only once it is; an engine without weights, because
it has read none or has slept, samples nothing before a push.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace

from rlpost.errors import WeightPushError
from rlpost.rollout.engine import KV_CACHE, WEIGHTS, ModelHolder
from rlpost.rollout.pushes import BASE_VERSION, Admitted
from rlpost.rollout.sampled import Sampled
from rlpost.types import Span
from rlpost.weights.manifest import PushManifest, Shape, refuse_other_model
from rlpost.weights.transports.protocol import Locator


class WholePushes:
    """See ``pushes.Pushes``.

    Args:
        holder: the engine whose weights change.
        blank: it has read none, so requests wait for the first push that is committed.
    """

    def __init__(self, holder: ModelHolder, *, blank: bool = False) -> None:
        self._holder = holder
        self._blank = blank
        self._expected: Mapping[str, Shape] = {}
        self.version = self._committed = BASE_VERSION
        self._pushing: int | None = None
        self._away: tuple[str, ...] = ()  # what of its memory has left the device
        self._refused: set[int] = set()  # responses of these wait until another push is committed
        self._serving = asyncio.Event()
        if not blank:
            self._serving.set()

    def expect(self, model: Mapping[str, Shape]) -> None:
        self._expected = model

    async def serving(self) -> None:
        await self._serving.wait()

    def enter(self, request_id: str, *, probes: bool = False) -> Admitted:
        if self._blank:
            raise WeightPushError("this engine has no weights, until some are pushed to it")
        return Admitted(request_id=request_id, version=self.version)

    def leave(self, admitted: Admitted) -> None:
        """The engine keeps the account."""

    def spans(self, child: Sampled, admitted: Admitted) -> tuple[Span, ...]:
        """Translate the engine's own version spans; they cover the response without gaps."""
        num_tokens = len(child.token_ids)
        spans = [
            Span(
                start=s.start,
                # A stop string may have cut off tokens that were sampled after it.
                end=min(s.end, num_tokens),
                version=BASE_VERSION if s.version == "default" else int(s.version),
            )
            for s in child.weight_versions
            if min(s.end, num_tokens) > s.start
        ]
        if not spans:
            return (Span(start=0, end=num_tokens, version=self.version),) if num_tokens else ()
        return (*spans[:-1], replace(spans[-1], end=num_tokens))

    def refuses(self, versions: Iterable[int]) -> bool:
        return any(v > self.version or v in self._refused for v in versions)

    async def sleep(self) -> None:
        if WEIGHTS in self._away:
            return
        self._serving.clear()
        self._pushing, self._blank = None, True
        await self._holder.sleep()
        self._away = (WEIGHTS, KV_CACHE)
        self.version = BASE_VERSION  # whichever version comes next is newer than nothing

    async def _bring_back(self, part: str) -> None:
        if part in self._away:
            await self._holder.bring_back(part)
            self._away = tuple(each for each in self._away if each != part)

    async def begin(self, version: int) -> None:
        if self._pushing == version:
            return
        if version <= self.version:
            raise WeightPushError(f"version {version} is not newer than {self.version}")
        self._pushing = version
        self._serving.clear()
        await self._bring_back(WEIGHTS)
        await self._holder.begin_update()

    async def receive(self, locator: Locator, *, first_rank: int) -> None:
        manifest = PushManifest.from_dict(locator.manifest)
        if manifest.adapter is not None:
            raise WeightPushError(
                f"version {manifest.version} is an adapter, and this engine takes whole models"
            )
        refuse_other_model(manifest, self._expected)
        await self._holder.receive_model(locator, first_rank=first_rank)

    async def load(self, version: int) -> None:
        await self._holder.load_model(version)
        self._blank = False
        self.version = version
        await self._bring_back(KV_CACHE)
        # The probe runs through the engine's own scheduler. New requests still wait at the
        # door; kept ones go on, and ``abort`` discards them if the probe fails.
        await self._holder.resume()

    async def commit(self, version: int) -> None:
        await self._holder.commit_model()
        self._pushing, self._committed = None, version
        self._refused.discard(version)  # its first push may have been given up
        self._serving.set()

    async def abort(self, version: int) -> int:
        if self._pushing is None and not self._away:
            return self.version
        await self._bring_back(WEIGHTS)
        await self._holder.end_requests()
        if not await self._holder.restore_model(self._committed):
            # It stays paused and without weights, until a push is committed.
            self._refused.add(version)
            self.version, self._pushing, self._blank = BASE_VERSION, None, True
            raise WeightPushError("no committed version to go back to; push one")
        self._blank, self.version = False, self._committed
        await self._bring_back(KV_CACHE)
        await self._holder.resume()
        self._pushing = None
        self._serving.set()
        return self.version
