"""With which environment and arguments a vLLM engine starts, whoever asks it.

Owns them, in one place for rollouts and for ``rlpost serve``. Refuses to own the engine
(engine.py) and the server in front of it (stages/serve/). Invariant: where the two differ, it
is said by ``Sampling`` and nowhere else.
"""

import os
import tempfile
from collections.abc import Mapping
from enum import Enum
from typing import Any

from rlpost.network import LOOPBACK, use_interface_to
from rlpost.rollout.generator_config import AdapterCapacity, EngineConfig, Quantization
from rlpost.weights.adapter import adaptable
from rlpost.weights.manifest import Shape


class Sampling(Enum):
    """What a request gets that does not say how it is sampled.

    ``policy``: the model's plain distribution, because a default of its own would change pi; the
    log-probs are those after temperature. ``client``: the defaults in the model's
    ``generation_config.json`` and raw log-probs, as users of ``vllm serve`` have them.
    """

    policy = "policy"
    client = "client"

    @property
    def arguments(self) -> dict[str, str]:
        if self is Sampling.policy:
            return {"generation_config": "vllm", "logprobs_mode": "processed_logprobs"}
        return {"generation_config": "auto", "logprobs_mode": "raw_logprobs"}


def set_environment(cfg: EngineConfig) -> tempfile.TemporaryDirectory[str]:
    """Set what vLLM reads when its processes start, so before it is imported.

    Returns the directory of the sockets between its processes, which it never removes.
    """
    if cfg.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(cfg.threads)
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    if cfg.kv_cache_gib is not None:
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(cfg.kv_cache_gib)
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    # Loading a version allocates the whole model anew: 4 KiB pages cost four times the copy.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    # An engine stays on one host: its workers meet over loopback.
    os.environ["VLLM_HOST_IP"] = LOOPBACK
    use_interface_to(LOOPBACK)
    sockets = tempfile.TemporaryDirectory(prefix="rlpost-")
    os.environ["VLLM_RPC_BASE_PATH"] = sockets.name
    return sockets


def engine_arguments(
    cfg: EngineConfig,
    *,
    model_path: str,
    model: Mapping[str, Shape],
    weight_backend: str,
    adapters: AdapterCapacity | None,
    sampling: Sampling,
    blank: bool = False,
) -> Any:
    """Return the ``AsyncEngineArgs`` of an engine.

    Args:
        cfg: its settings, resolved.
        model_path: directory in Hugging Face layout.
        model: the shapes of its tensors.
        weight_backend: vLLM weight-transfer backend; ``rlpost`` is ``weights/vllm_plugin.py``.
        adapters: how many it must hold; None: it serves the model alone.
        sampling: what requests get that do not say.
        blank: it reads no weights, because they are pushed before anything is asked.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs

    return AsyncEngineArgs(
        model=model_path,
        # Mistral's own files beside the Hugging Face ones would be preferred.
        config_format="hf",
        load_format="rlpost_blank" if blank else "safetensors",  # see weights/vllm_blank.py
        dtype=cfg.dtype.value,
        quantization=None if cfg.quantization is Quantization.none else cfg.quantization.value,
        kv_cache_dtype=cfg.kv_cache_dtype.value,
        max_model_len=cfg.max_model_len,
        max_num_seqs=cfg.max_num_seqs,
        max_num_batched_tokens=cfg.max_num_batched_tokens,
        tensor_parallel_size=cfg.tensor_parallel_size,
        distributed_executor_backend=_executor(cfg),
        gpu_memory_utilization=cfg.gpu_memory_utilization,
        kv_cache_memory_bytes=_kv_cache_bytes(cfg),
        enforce_eager=cfg.enforce_eager,
        enable_sleep_mode=cfg.sleeps,
        enable_prefix_caching=True,
        # A seeded request whose prompt is cut into chunks kills the CPU engine: it
        # rewinds the generator's offset, which torch does not have on CPU.
        enable_chunked_prefill=_on_gpu(),
        weight_transfer_config={"backend": weight_backend},
        worker_extension_cls="rlpost.weights.vllm_plugin.WorkerExtension",
        **sampling.arguments,
        **_adapter_settings(adapters, model),
        enable_log_requests=False,
        disable_log_stats=False,  # load.py and the server's metrics listen
    )


def _kv_cache_bytes(cfg: EngineConfig) -> int | None:
    """Return the cache's size where it is given; None: vLLM measures what is left.

    Measuring takes whatever others do with the same GPU meanwhile for the engine's own doing.
    """
    return None if cfg.kv_cache_gib is None else cfg.kv_cache_gib << 30


def _executor(cfg: EngineConfig) -> Any:
    """Return what runs the workers: this process's children, or the engine's process itself.

    A lone worker runs in the engine's process. The class says so and not its name, because on
    a CPU vLLM takes the name for a child process, which binds its threads to cores: one more
    import of vLLM and a queue between the two. Several workers are its children: in an actor
    that has a placement group vLLM would ask Ray for them instead, and Ray for a bundle of one
    GPU each, which the engine's bundle of all its GPUs is not.
    """
    from vllm.v1.executor import UniProcExecutor

    return UniProcExecutor if cfg.tensor_parallel_size == 1 else "mp"


def _adapter_settings(
    adapters: AdapterCapacity | None, model: Mapping[str, Shape]
) -> dict[str, Any]:
    """With as much room on the device as on the host, vLLM has no reason to evict one."""
    if adapters is None:
        return {}
    return {
        "enable_lora": True,
        "max_loras": adapters.versions,
        "max_cpu_loras": adapters.versions,
        "max_lora_rank": adapters.rank,
        "lora_target_modules": adaptable(model),
    }


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
