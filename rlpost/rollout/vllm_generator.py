"""A generator over vLLM's AsyncLLM.

Owns the requests of one engine. Refuses to own Ray: cluster/ turns the class into an actor; and
pushes (pushes.py). Invariants: log-probs are the sampler's own, after temperature; each request is
salted with its version, so a prefix cached under other weights is never reused.
"""

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Any

from rlpost.control.concurrency import Load
from rlpost.errors import RequestAborted
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.rollout.adapter_pushes import AdapterPushes
from rlpost.rollout.generator_config import AdapterCapacity, GeneratorConfig
from rlpost.rollout.protocol import GeneratorInfo, ProcessId, Pulse
from rlpost.rollout.pushes import Admitted, Pushes
from rlpost.rollout.vllm_engine import VllmEngine, scores, scoring, start_engine
from rlpost.rollout.whole_pushes import WholePushes
from rlpost.types import Episode, GenerationRequest, SamplingConfig, Trajectory
from rlpost.weights.transports.host_file import remove_unused
from rlpost.weights.transports.protocol import Locator, Seat
from rlpost.weights.transports.shared_memory import shared_memory_id

CANCEL_TIMEOUT_S = 10.0


class VllmGenerator:
    """See ``protocol.Generator``.

    Args:
        cfg: engine settings, resolved.
        model_path: directory in Hugging Face layout.
        weight_backend: vLLM weight-transfer backend; ``rlpost`` is ``weights/vllm_plugin.py``.
        adapters: room for the adapters that are pushed; None: whole models are.
    """

    def __init__(
        self,
        cfg: GeneratorConfig,
        *,
        model_path: str,
        weight_backend: str = "rlpost",
        adapters: AdapterCapacity | None = None,
    ) -> None:
        self._model_path = model_path
        self._num_workers = cfg.tensor_parallel_size
        self._engine = VllmEngine(
            cfg,
            model_path=model_path,
            weight_backend=weight_backend,
            adapters=adapters,
            start=self._start,
        )
        self._pushes: Pushes = (
            WholePushes(self._engine)
            if adapters is None
            else AdapterPushes(self._engine, capacity=adapters.versions)
        )
        self._info: GeneratorInfo | None = None
        self._num_requests = 0
        self._running: dict[str, str] = {}  # request's key -> vLLM's id
        self._cancelled: dict[str, asyncio.Future[list[int]]] = {}
        self._load = Load(kv_use=0.0, num_preempted=0)

    async def setup(self) -> GeneratorInfo:
        if self._info is None:
            # Not in vLLM's worker: there it replaces parts of transformers.
            model = ModelDirectory.read(self._model_path).checkpoint_shapes()
            self._pushes.expect(model)
            config = self._engine.boot(model)
            self._info = GeneratorInfo(
                max_model_len=config.max_model_len,
                dtype=str(config.dtype).removeprefix("torch."),
                seat=Seat(memory=shared_memory_id(), num_workers=self._num_workers),
                processes=ProcessId.tree(os.getpid()),
                host=socket.gethostname(),
            )
        return self._info

    def _start(self, arguments: Any) -> Any:
        from rlpost.rollout.vllm_load import listener

        return start_engine(arguments, listeners=[listener(self._on_load)])

    def _on_load(self, load: Load) -> None:
        self._load = load

    # -- requests -------------------------------------------------------------------------

    async def generate(self, request: GenerationRequest) -> tuple[Episode, ...]:
        await self._pushes.serving()
        key = request.key
        try:
            admitted, output = await self._run(
                list(request.prompt.token_ids),
                self._sampling_params(request.sampling, n=request.num_samples, seed=request.seed),
                key=key,
            )
        finally:
            self._running.pop(key, None)
        if any(child.finish_reason == "abort" for child in output.outputs):
            if key in self._cancelled:
                lengths = [len(child.token_ids) for child in output.outputs]
                self._cancelled.pop(key).set_result(lengths)
            raise RequestAborted(f"request {key} was given up")
        children = sorted(output.outputs, key=lambda child: child.index)
        episodes = tuple(self._episode(request, child, admitted) for child in children)
        # Tokens of a version that is loaded and not committed count only once it is.
        await self._pushes.serving()
        if self._pushes.refuses(version for each in episodes for version in each.versions):
            raise RequestAborted(f"request {key} was sampled by a refused version")
        return episodes

    def _episode(self, request: GenerationRequest, child: Any, admitted: Admitted) -> Episode:
        trajectory = Trajectory(
            prompt_ids=request.prompt.token_ids,
            response_ids=tuple(child.token_ids),
            spans=self._pushes.spans(child, admitted),
            rollout_logprobs=_sampled_logprobs(child),
        )
        return Episode(
            uid=request.prompt.uid,
            sample=child.index,
            trajectories=(trajectory,),
            finish_reason=str(child.finish_reason),
            text=child.text,
            seed=request.seed + child.index,
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

    async def _run(
        self, token_ids: list[int], params: Any, *, key: str | None = None, probes: bool = False
    ) -> tuple[Admitted, Any]:
        self._num_requests += 1
        request_id = f"r{self._num_requests}"
        if key is not None:
            self._running[key] = request_id
        admitted = self._pushes.enter(request_id, probes=probes)
        final = None
        try:
            async for output in self._engine.generate(token_ids, params, admitted):
                final = output
        finally:
            self._pushes.leave(admitted)
        if final is None or not final.finished:
            raise RequestAborted("vLLM ended a request without a result")
        return admitted, final

    def _sampling_params(self, sampling: SamplingConfig, *, n: int, seed: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            n=n,
            seed=seed,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            repetition_penalty=1.0,
            stop=list(sampling.stop),
            stop_token_ids=list(sampling.stop_token_ids),
            # Their tokens are part of the response, so verifiers read them.
            include_stop_str_in_output=bool(sampling.stop or sampling.stop_token_ids),
            logprobs=0,  # the sampled token's own
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    async def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        outputs = await asyncio.gather(
            *(self._run(list(ids), scoring(), probes=True) for ids in sequences)
        )
        return [scores(ids, out) for ids, (_, out) in zip(sequences, outputs, strict=True)]

    # -- pushes ---------------------------------------------------------------------------

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
        await self._engine.ask("check_health")
        # Through the engine's loop to its workers: either may hang while this process lives.
        await self._engine.ask("collective_rpc", "rlpost_alive")
        return Pulse(version=self._pushes.version, load=self._load)

    async def close(self) -> None:
        await self._engine.shut_down()
        remove_unused()


def _sampled_logprobs(child: Any) -> tuple[float, ...]:
    return tuple(
        position[token].logprob
        for token, position in zip(child.token_ids, child.logprobs, strict=True)
    )
