"""A generator over vLLM's AsyncLLM.

Owns the engine of one process tree and its pushes. Refuses to own Ray: cluster/ turns the
class into an actor. Invariants: log-probs are the sampler's own, after temperature; each
request is salted with its version, so a prefix cached under other weights is never reused;
the model is only touched while the scheduler is paused.
"""

import asyncio
import os
import socket
import tempfile
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from rlpost.bounds import WEEK_S, number, option
from rlpost.control.concurrency import Load
from rlpost.errors import ProcessDied, RequestAborted, WeightPushError
from rlpost.garbage import without_collection
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.directory.weight_files import Shape
from rlpost.network import LOOPBACK, use_interface_to
from rlpost.rollout.protocol import GeneratorInfo, ProcessId, Pulse
from rlpost.types import Episode, GenerationRequest, SamplingConfig, Span, Trajectory
from rlpost.weights.manifest import PushManifest, refuse_other_model
from rlpost.weights.transports.protocol import Locator

CANCEL_TIMEOUT_S = 10.0
BASE_VERSION = 0  # what the engine loaded from disk, before the first push


class GeneratorDtype(Enum):
    """Precision of the generator's weights and arithmetic."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass(kw_only=True)
class GeneratorConfig:
    """How many engines there are and what each may use."""

    num: int = number(1, at_least=1, at_most=10**4, help="inference engines")
    dtype: GeneratorDtype = option(
        GeneratorDtype.auto, help="number format of the weights; auto: like the trainer"
    )
    max_model_len: int | None = number(
        None,
        at_least=2,
        at_most=10**7,
        help="longest sequence, in tokens; null: the model's context",
    )
    max_num_seqs: int = number(
        128, at_least=1, at_most=10**5, help="responses in flight per engine"
    )
    threads: int | None = number(
        None,
        at_least=1,
        at_most=1024,
        help="CPU threads per engine; null: the cores shared among the engines",
    )
    kv_cache_gib: int = number(
        1, at_least=1, at_most=10**4, help="size of the key-value cache, on CPU only"
    )
    gpu_memory_utilization: float = number(
        0.85, above=0, at_most=1, help="share of the GPU's memory, on GPU only"
    )
    tensor_parallel_size: int = number(1, at_least=1, at_most=1024, help="GPUs of one engine")
    enforce_eager: bool = option(
        True, help="do not compile; compiling gains nothing measurable on CPU"
    )
    setup_timeout_s: float = number(
        300.0, above=0, at_most=WEEK_S, help="deadline of an engine's start"
    )
    request_timeout_s: float = number(
        600.0, above=0, at_most=WEEK_S, help="deadline of one group's responses"
    )


class VllmGenerator:
    """See ``protocol.Generator``.

    Args:
        cfg: engine settings, with ``threads`` and ``dtype`` resolved.
        model_path: directory in Hugging Face layout.
        weight_backend: vLLM weight-transfer backend; ``rlpost`` is ``weights/vllm_plugin.py``.
    """

    def __init__(
        self, cfg: GeneratorConfig, *, model_path: str, weight_backend: str = "rlpost"
    ) -> None:
        self._cfg = cfg
        self._model_path = model_path
        self._weight_backend = weight_backend
        self._started_engine: Any = None  # None before setup and after close
        self._expected: dict[str, Shape] = {}  # the tensors of a push
        self._info: GeneratorInfo | None = None
        self._sockets: tempfile.TemporaryDirectory[str] | None = None
        self._version = BASE_VERSION
        self._pushing: int | None = None
        self._serving = asyncio.Event()
        self._serving.set()
        self._num_requests = 0
        self._running: dict[str, str] = {}  # request's key -> vLLM's id
        self._cancelled: dict[str, asyncio.Future[list[int]]] = {}
        self._load = Load(kv_use=0.0, num_preempted=0)

    async def setup(self) -> GeneratorInfo:
        if self._info is None:
            # Not in vLLM's worker: there it replaces parts of transformers.
            self._expected = ModelDirectory.read(self._model_path).checkpoint_shapes()
            self._set_environment()
            with _its_death_named(), without_collection():
                self._started_engine = self._build_engine()
            config = self._engine.model_config
            self._info = GeneratorInfo(
                max_model_len=config.max_model_len,
                dtype=str(config.dtype).removeprefix("torch."),
                num_workers=self._cfg.tensor_parallel_size,
                processes=ProcessId.tree(os.getpid()),
                host=socket.gethostname(),
            )
        return self._info

    @property
    def _engine(self) -> Any:
        if self._started_engine is None:  # a member may leave in the middle of a push
            raise ProcessDied("this generator is closed")
        return self._started_engine

    def _set_environment(self) -> None:
        # vLLM reads these when its processes start, so they precede its import.
        threads = self._cfg.threads or os.cpu_count() or 1
        os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(self._cfg.kv_cache_gib)
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        # Loading a version allocates the whole model anew: 4 KiB pages cost four times the copy.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        # An engine stays on one host: its workers meet over loopback.
        os.environ["VLLM_HOST_IP"] = LOOPBACK
        use_interface_to(LOOPBACK)
        # vLLM never removes the sockets between its processes.
        self._sockets = tempfile.TemporaryDirectory(prefix="rlpost-")
        os.environ["VLLM_RPC_BASE_PATH"] = self._sockets.name

    def _build_engine(self) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        from rlpost.rollout.vllm_load import listener

        args = AsyncEngineArgs(
            model=self._model_path,
            # Mistral's own files beside the Hugging Face ones would be preferred.
            config_format="hf",
            load_format="safetensors",
            dtype=self._cfg.dtype.value,
            max_model_len=self._cfg.max_model_len,
            max_num_seqs=self._cfg.max_num_seqs,
            tensor_parallel_size=self._cfg.tensor_parallel_size,
            distributed_executor_backend=self._executor(),
            gpu_memory_utilization=self._cfg.gpu_memory_utilization,
            enforce_eager=self._cfg.enforce_eager,
            enable_prefix_caching=True,
            # A seeded request whose prompt is cut into chunks kills the CPU engine: it
            # rewinds the generator's offset, which torch does not have on CPU.
            enable_chunked_prefill=self._on_gpu(),
            logprobs_mode="processed_logprobs",  # the default ignores the temperature
            generation_config="vllm",  # a model's own sampling defaults would change pi
            weight_transfer_config={"backend": self._weight_backend},
            worker_extension_cls="rlpost.weights.vllm_plugin.WorkerExtension",
            enable_log_requests=False,
            disable_log_stats=False,  # vllm_load.py listens
        )
        return AsyncLLM.from_engine_args(args, stat_loggers=[listener(self._on_load)])

    def _executor(self) -> Any:
        """Return the class that runs a lone worker in the engine's process; None: vLLM chooses.

        On a GPU vLLM chooses the same. On a CPU it starts a process for it, to bind its threads
        to cores, which ours are not: one more import of vLLM and a queue between the two.
        """
        from vllm.v1.executor import UniProcExecutor

        return UniProcExecutor if self._cfg.tensor_parallel_size == 1 else None

    def _on_load(self, load: Load) -> None:
        self._load = load

    @staticmethod
    def _on_gpu() -> bool:
        import torch

        return torch.cuda.is_available()

    async def generate(self, request: GenerationRequest) -> tuple[Episode, ...]:
        await self._serving.wait()
        key = request.key
        try:
            output = await self._run(
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
        episodes = []
        for child in sorted(output.outputs, key=lambda c: c.index):
            trajectory = Trajectory(
                prompt_ids=request.prompt.token_ids,
                response_ids=tuple(child.token_ids),
                spans=_spans(child, version=self._version),
                rollout_logprobs=_sampled_logprobs(child),
            )
            episodes.append(
                Episode(
                    uid=request.prompt.uid,
                    sample=child.index,
                    trajectories=(trajectory,),
                    finish_reason=str(child.finish_reason),
                    text=child.text,
                    seed=request.seed + child.index,
                )
            )
        # Tokens of a version that is loaded and not committed count only once it is.
        await self._serving.wait()
        if any(version > self._version for each in episodes for version in each.versions):
            raise RequestAborted(f"request {key} was sampled by a refused version")
        return tuple(episodes)

    async def cancel(self, key: str) -> list[int]:
        if key not in self._running:
            return []
        lengths = self._cancelled[key] = asyncio.get_running_loop().create_future()
        try:
            with _its_death_named():
                await self._engine.abort(self._running[key])
            return await asyncio.wait_for(lengths, timeout=CANCEL_TIMEOUT_S)
        except TimeoutError:
            return []
        finally:
            self._cancelled.pop(key, None)

    async def _run(self, token_ids: list[int], params: Any, *, key: str | None = None) -> Any:
        from vllm.inputs import TokensPrompt

        self._num_requests += 1
        request_id = f"r{self._num_requests}"
        if key is not None:
            self._running[key] = request_id
        prompt = TokensPrompt(prompt_token_ids=token_ids, cache_salt=f"v{self._version}")
        final = None
        with _its_death_named():
            async for output in self._engine.generate(prompt, params, request_id):
                final = output
        if final is None or not final.finished:
            raise RequestAborted("vLLM ended a request without a result")
        return final

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
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=1,
            temperature=1.0,
            prompt_logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        outputs = await asyncio.gather(*(self._run(list(ids), params) for ids in sequences))
        return [
            [
                position[token].logprob
                for token, position in zip(ids[1:], out.prompt_logprobs[1:], strict=True)
            ]
            for ids, out in zip(sequences, outputs, strict=True)
        ]

    # -- pushes ---------------------------------------------------------------------------

    async def begin_push(self, version: int) -> None:
        if self._pushing == version:
            return
        if version <= self._version:
            raise WeightPushError(f"version {version} is not newer than {self._version}")
        self._pushing = version
        self._serving.clear()
        with _its_death_named():
            await self._engine.pause_generation(mode="keep", clear_cache=False)
        await _refused(self._engine.start_weight_update())

    async def receive(self, locator: Locator, *, first_rank: int) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        refuse_other_model(PushManifest.from_dict(locator.manifest), self._expected)
        info = {"transport": locator.transport, "manifest": locator.manifest}
        per_worker = [
            {**info, "where": {**locator.where, "rank": first_rank + worker}}
            for worker in range(self._cfg.tensor_parallel_size)
        ]
        request = WeightTransferUpdateRequest(update_info=per_worker)
        await _refused(self._engine.update_weights(request))

    async def load(self, version: int) -> None:
        await _refused(self._engine.finish_weight_update(weight_version=str(version)))
        self._version_before, self._version = self._version, version
        # The probe runs through the engine's own scheduler. New requests still wait at the
        # door; kept ones go on, and abort_push discards them if the probe fails.
        with _its_death_named():
            await self._engine.resume_generation()

    async def commit_push(self, version: int) -> None:
        with _its_death_named():
            await self._engine.collective_rpc("rlpost_commit")
        self._pushing = None
        self._serving.set()

    async def abort_push(self, version: int) -> int:
        if self._pushing is None:
            return self._version
        with _its_death_named():
            await self._engine.pause_generation(mode="abort", clear_cache=True)
            restored = await self._engine.collective_rpc("rlpost_rollback")
            if self._version == version:
                if not all(restored):
                    raise WeightPushError("no committed version to go back to; restart it")
                self._version = self._version_before
                await self._engine.update_weight_version(str(self._version))
            await self._engine.resume_generation()
        self._pushing = None
        self._serving.set()
        return self._version

    # -- life -----------------------------------------------------------------------------

    async def health(self) -> Pulse:
        with _its_death_named():
            await self._engine.check_health()
            # Through the engine's loop to its workers: either may hang while this process lives.
            await self._engine.collective_rpc("rlpost_alive")
        return Pulse(version=self._version, load=self._load)

    async def close(self) -> None:
        if self._started_engine is not None:
            engine, self._started_engine = self._started_engine, None
            with _its_death_named():
                # shutdown hangs on running requests
                await engine.pause_generation(mode="abort")
            engine.shutdown()
        if self._sockets is not None:
            self._sockets.cleanup()


@contextmanager
def _its_death_named() -> Iterator[None]:
    """Any verb may be the first to learn that the engine is dead, or about to be."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise ProcessDied(f"vLLM engine died: {error}") from error
    except Exception as error:
        # How vLLM puts it when a worker dies in the middle of a call to all workers: its core
        # gives up waiting, and tells the caller in a plain Exception before it goes itself.
        if str(error).endswith("method failed: cancelled"):
            raise ProcessDied(f"a worker of vLLM died in a call: {error}") from error
        if "Engine core initialization failed" in str(error):
            raise ProcessDied(
                f"vLLM's engine did not come up; why is in worker-*-{os.getpid()}.err, in "
                "session_latest/logs of Ray's temporary directory on its host"
            ) from error
        raise


async def _refused(call: Awaitable[Any]) -> None:
    """Await an engine call that may refuse a payload; the engine itself survives that."""
    try:
        with _its_death_named():
            await call
    except ProcessDied:
        raise
    except Exception as error:  # the worker's exception arrives as a plain Exception
        raise WeightPushError(str(error)) from error


def _sampled_logprobs(child: Any) -> tuple[float, ...]:
    return tuple(
        position[token].logprob
        for token, position in zip(child.token_ids, child.logprobs, strict=True)
    )


def _spans(child: Any, *, version: int) -> tuple[Span, ...]:
    """Translate the engine's own version spans; they cover the response without gaps."""
    num_tokens = len(child.token_ids)
    spans = [
        Span(
            start=s.start,
            # A stop string may have cut off tokens that were sampled after it.
            end=min(s.end, num_tokens),
            version=BASE_VERSION if s.version == "default" else int(s.version),
        )
        for s in child.weight_versions or ()
        if min(s.end, num_tokens) > s.start
    ]
    if not spans:
        return (Span(start=0, end=num_tokens, version=version),) if num_tokens else ()
    return (*spans[:-1], replace(spans[-1], end=num_tokens))
