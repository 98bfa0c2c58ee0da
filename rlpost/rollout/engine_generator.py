"""A generator over an inference engine.

Owns its requests: who runs, who is cancelled, and which version sampled what. Refuses to own Ray
(cluster/ turns the class into an actor), pushes (pushes.py) and the engine's own words (engine.py).
Invariant: what a version sampled that is loaded and not committed counts only once it is.
"""

import asyncio
import os
import socket
from collections.abc import Sequence

from rlpost.errors import RequestAborted
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.rollout.engines import make_engine
from rlpost.rollout.generator_config import AdapterCapacity, GeneratorConfig
from rlpost.rollout.protocol import GeneratorInfo, ProcessId, Pulse
from rlpost.rollout.pushes import Admitted
from rlpost.rollout.sampled import ABORTED, Sampled
from rlpost.types import Episode, GenerationRequest, Trajectory
from rlpost.weights.kernel_digest import KernelDigest
from rlpost.weights.transports.protocol import Locator, Seat
from rlpost.weights.transports.ring import remove_unused
from rlpost.weights.transports.shared_memory import shared_memory_id

CANCEL_TIMEOUT_S = 10.0


class EngineGenerator:
    """See ``protocol.Generator``.

    Args:
        cfg: engine settings, resolved.
        model_path: directory in Hugging Face layout.
        adapters: room for the adapters that are pushed; None: whole models are.
        blank: it reads no weights, because a whole model is pushed before anything is asked.
    """

    def __init__(
        self,
        cfg: GeneratorConfig,
        *,
        model_path: str,
        adapters: AdapterCapacity | None = None,
        blank: bool = False,
    ) -> None:
        self._model_path = model_path
        self._engine, self._pushes = make_engine(
            cfg, model_path=model_path, adapters=adapters, blank=blank
        )
        self._info: GeneratorInfo | None = None
        self._num_requests = 0
        self._running: dict[str, str] = {}  # request's key -> the engine's id
        self._cancelled: dict[str, asyncio.Future[list[int]]] = {}

    async def setup(self) -> GeneratorInfo:
        if self._info is None:
            # Not in the engine's own processes: some replace parts of transformers there.
            model = ModelDirectory.read(self._model_path).checkpoint_shapes()
            self._pushes.expect(model)
            booted = await self._engine.boot(model)
            self._info = GeneratorInfo(
                max_model_len=booted.max_model_len,
                dtype=booted.dtype,
                seat=Seat(
                    memory=shared_memory_id(), num_workers=booted.num_receivers, gpus=booted.gpus
                ),
                processes=ProcessId.tree(os.getpid()),
                host=socket.gethostname(),
            )
        return self._info

    # -- requests -------------------------------------------------------------------------

    async def generate(self, request: GenerationRequest) -> tuple[Episode, ...]:
        await self._pushes.serving()
        key = request.key
        admitted = self._enter()
        self._running[key] = admitted.request_id
        children: list[Sampled] = []
        try:
            children = await self._engine.sample(request, admitted)
        finally:
            self._pushes.leave(admitted)
            self._running.pop(key, None)
            lengths = self._cancelled.pop(key, None)
            if lengths is not None and not lengths.done():  # also if it ended before it heard of it
                lengths.set_result([len(child.token_ids) for child in children])
        if any(child.finish_reason == ABORTED for child in children):
            raise RequestAborted(f"request {key} was given up")
        episodes = tuple(
            self._episode(request, sample, child, admitted) for sample, child in enumerate(children)
        )
        # Tokens of a version that is loaded and not committed count only once it is.
        await self._pushes.serving()
        if self._pushes.refuses(version for each in episodes for version in each.versions):
            raise RequestAborted(f"request {key} was sampled by a refused version")
        return episodes

    def _enter(self, *, probes: bool = False) -> Admitted:
        self._num_requests += 1
        return self._pushes.enter(f"r{self._num_requests}", probes=probes)

    def _episode(
        self, request: GenerationRequest, sample: int, child: Sampled, admitted: Admitted
    ) -> Episode:
        trajectory = Trajectory(
            prompt_ids=request.prompt.token_ids,
            response_ids=child.token_ids,
            spans=self._pushes.spans(child, admitted),
            rollout_logprobs=child.logprobs,
        )
        return Episode(
            uid=request.prompt.uid,
            sample=sample,
            trajectories=(trajectory,),
            finish_reason=child.finish_reason,
            text=child.text,
            seed=request.seed + sample,
        )

    async def cancel(self, key: str) -> list[int]:
        if key not in self._running:
            return []
        lengths = self._cancelled[key] = asyncio.get_running_loop().create_future()
        try:
            await self._engine.abort([self._running[key]])
            return await asyncio.wait_for(lengths, timeout=CANCEL_TIMEOUT_S)
        except TimeoutError:
            return []
        finally:
            self._cancelled.pop(key, None)

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return list(await asyncio.gather(*(self._scored(ids) for ids in sequences)))

    async def _scored(self, token_ids: Sequence[int]) -> list[float]:
        admitted = self._enter(probes=True)
        try:
            return await self._engine.score(token_ids, admitted)
        finally:
            self._pushes.leave(admitted)

    # -- pushes ---------------------------------------------------------------------------

    async def sleep(self) -> None:
        await self._pushes.sleep()

    async def kernel_digest(self) -> KernelDigest:
        return await self._engine.kernel_digest()

    async def begin_push(self, version: int) -> None:
        await self._pushes.begin(version)

    async def receive(self, locator: Locator, *, first_rank: int) -> None:
        await self._pushes.receive(locator, first_rank=first_rank)

    async def load(self, version: int) -> None:
        await self._pushes.load(version)

    async def commit_push(self, version: int) -> None:
        await self._pushes.commit(version)

    async def abort_push(self, version: int) -> int:
        return await self._pushes.abort(version)

    # -- life -----------------------------------------------------------------------------

    async def health(self) -> Pulse:
        load = await self._engine.check()
        return Pulse(version=self._pushes.version, load=load)

    async def close(self) -> None:
        await self._engine.shut_down()
        remove_unused()
