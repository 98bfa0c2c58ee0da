"""vLLM's AsyncLLM: how it is booted, and how its death is told.

Owns the settings of the engine and the names of its failures. Refuses to own requests
(vllm_generator.py) and what a push does (whole_pushes.py, adapter_pushes.py). Invariant: whichever
verb is the first to learn that the engine is dead, or about to be, says so as ``ProcessDied``.
"""

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rlpost.control.concurrency import Load
from rlpost.errors import ProcessDied, WeightPushError
from rlpost.garbage import without_collection
from rlpost.network import LOOPBACK, use_interface_to
from rlpost.rollout.generator_config import AdapterCapacity, GeneratorConfig
from rlpost.rollout.pushes import Admitted
from rlpost.weights.adapter import adaptable
from rlpost.weights.manifest import Shape
from rlpost.weights.transports.protocol import Locator


class VllmEngine:
    """One engine, from its boot to its end.

    Args:
        cfg: its settings, resolved.
        model_path: directory in Hugging Face layout.
        weight_backend: vLLM weight-transfer backend; ``rlpost`` is ``weights/vllm_plugin.py``.
        adapters: how many it must hold; None: it serves the model alone.
        on_load: told how full it is, after each of its steps.
    """

    def __init__(
        self,
        cfg: GeneratorConfig,
        *,
        model_path: str,
        weight_backend: str,
        adapters: AdapterCapacity | None,
        on_load: Callable[[Load], None],
    ) -> None:
        self._cfg = cfg
        self._model_path = model_path
        self._weight_backend = weight_backend
        self._adapters = adapters
        self._on_load = on_load
        self.started: Any = None  # None before the boot and after the end
        self._sockets: tempfile.TemporaryDirectory[str] | None = None

    @property
    def running(self) -> Any:
        if self.started is None:  # a member may leave in the middle of a push
            raise ProcessDied("this generator is closed")
        return self.started

    def boot(self, model: Mapping[str, Shape]) -> Any:
        """Start the engine for a model of these tensors; return the model's configuration."""
        self._set_environment()
        with its_death_named(), without_collection():
            self.started = self._build(self._adapter_settings(model))
        return self.started.model_config

    def _set_environment(self) -> None:
        # vLLM reads these when its processes start, so they precede its import.
        if self._cfg.threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(self._cfg.threads)
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        if self._cfg.kv_cache_gib is not None:
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

    def _build(self, adapter_settings: dict[str, Any]) -> Any:
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
            max_num_batched_tokens=self._cfg.max_num_batched_tokens,
            tensor_parallel_size=self._cfg.tensor_parallel_size,
            distributed_executor_backend=self._executor(),
            gpu_memory_utilization=self._cfg.gpu_memory_utilization,
            kv_cache_memory_bytes=self._kv_cache_bytes(),
            enforce_eager=self._cfg.enforce_eager,
            enable_prefix_caching=True,
            # A seeded request whose prompt is cut into chunks kills the CPU engine: it
            # rewinds the generator's offset, which torch does not have on CPU.
            enable_chunked_prefill=self._on_gpu(),
            logprobs_mode="processed_logprobs",  # the default ignores the temperature
            generation_config="vllm",  # a model's own sampling defaults would change pi
            weight_transfer_config={"backend": self._weight_backend},
            worker_extension_cls="rlpost.weights.vllm_plugin.WorkerExtension",
            **adapter_settings,
            enable_log_requests=False,
            disable_log_stats=False,  # vllm_load.py listens
        )
        return AsyncLLM.from_engine_args(args, stat_loggers=[listener(self._on_load)])

    def _kv_cache_bytes(self) -> int | None:
        """Return the cache's size where it is given; None: vLLM measures what is left.

        Measuring takes whatever others do with the same GPU meanwhile for the engine's own doing.
        """
        gib = self._cfg.kv_cache_gib
        return None if gib is None else gib << 30

    def _executor(self) -> Any:
        """Return what runs the workers: this process's children, or the engine's process itself.

        A lone worker runs in the engine's process. The class says so and not its name, because on
        a CPU vLLM takes the name for a child process, which binds its threads to cores: one more
        import of vLLM and a queue between the two. Several workers are its children: in an actor
        that has a placement group vLLM would ask Ray for them instead, and Ray for a bundle of one
        GPU each, which the engine's bundle of all its GPUs is not.
        """
        from vllm.v1.executor import UniProcExecutor

        return UniProcExecutor if self._cfg.tensor_parallel_size == 1 else "mp"

    def _adapter_settings(self, model: Mapping[str, Shape]) -> dict[str, Any]:
        """With as much room on the device as on the host, vLLM has no reason to evict one."""
        if self._adapters is None:
            return {}
        return {
            "enable_lora": True,
            "max_loras": self._adapters.versions,
            "max_cpu_loras": self._adapters.versions,
            "max_lora_rank": self._adapters.rank,
            "lora_target_modules": adaptable(model),
        }

    @staticmethod
    def _on_gpu() -> bool:
        import torch

        return torch.cuda.is_available()

    async def ask(self, verb: str, *args: Any, **options: Any) -> Any:
        """Call a verb that cannot fail while the engine lives."""
        with its_death_named():
            return await getattr(self.running, verb)(*args, **options)

    async def offer(self, verb: str, *args: Any, **options: Any) -> Any:
        """Call a verb that may refuse a payload; the engine itself survives that.

        Raises:
            WeightPushError: it was refused.
        """
        try:
            return await self.ask(verb, *args, **options)
        except ProcessDied:
            raise
        except Exception as error:  # the worker's exception arrives as a plain Exception
            raise WeightPushError(str(error)) from error

    async def generate(
        self, token_ids: list[int], params: Any, admitted: Admitted
    ) -> AsyncIterator[Any]:
        """Yield the outputs of a request."""
        from vllm.inputs import TokensPrompt
        from vllm.lora.request import LoRARequest

        prompt = TokensPrompt(prompt_token_ids=token_ids, cache_salt=admitted.salt)
        adapter = None
        if admitted.adapter is not None:
            # Its path is never read: the engine holds every adapter that a request may name.
            adapter = LoRARequest(admitted.salt, admitted.adapter, "in memory")
        with its_death_named():
            async for output in self.running.generate(
                prompt, params, admitted.request_id, lora_request=adapter
            ):
                yield output

    async def shut_down(self) -> None:
        if self.started is not None:
            engine, self.started = self.started, None
            with its_death_named():
                # shutdown hangs on running requests
                await engine.pause_generation(mode="abort")
            engine.shutdown()
        if self._sockets is not None:
            self._sockets.cleanup()

    async def receive_model(self, locator: Locator, *, first_rank: int) -> None:
        """Fetch and verify a whole model in every worker; the kernels stay as they are."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        info = {"transport": locator.transport, "manifest": locator.manifest}
        per_worker = [
            {**info, "where": {**locator.where, "rank": first_rank + worker}}
            for worker in range(self._cfg.tensor_parallel_size)
        ]
        request = WeightTransferUpdateRequest(update_info=per_worker)
        await self.offer("update_weights", request)

    # -- adapters: see ``adapter_pushes.AdapterHolder`` -----------------------------------

    async def receive_adapter(self, locator: Locator, *, first_rank: int) -> None:
        sent = (locator.transport, locator.manifest, locator.where, first_rank)
        await self.offer("collective_rpc", "rlpost_receive_adapter", args=sent)

    async def load_adapter(self, version: int, *, keep: Sequence[int]) -> None:
        await self.offer("collective_rpc", "rlpost_load_adapter", args=(version, list(keep)))

    async def keep_adapters(self, keep: Sequence[int]) -> None:
        await self.ask("collective_rpc", "rlpost_keep_adapters", args=(list(keep),))

    async def abort(self, request_ids: Iterable[str]) -> None:
        await self.ask("abort", list(request_ids))


@contextmanager
def its_death_named() -> Iterator[None]:
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
