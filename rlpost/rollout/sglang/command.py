"""With which settings and environment an SGLang server starts.

Owns them, in one place. Refuses to own the process (server.py). Invariants: a server answers one
host over loopback, to whoever has its key, and its workers meet in a file; the key is in a file of
its owner's and in no command line. Facts about SGLang are those of 0.5.23, with the source file of
each.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlpost.errors import UserError
from rlpost.models.shape import ModelShape
from rlpost.network import INTERFACE_VARIABLES, LOOPBACK, interface_to
from rlpost.rollout.generator_config import GeneratorConfig, GeneratorDtype

# A sequence may have some tokens less than the context (managers/scheduler.py, max_req_len).
CONTEXT_MARGIN = 8


def settings(
    cfg: GeneratorConfig,
    *,
    model_path: str,
    shape: ModelShape,
    port: int,
    key: str,
    on_gpu: bool,
) -> dict[str, Any]:
    """Return the content of the file that ``--config`` names.

    Args:
        cfg: of the generators, resolved.
        model_path: directory in Hugging Face layout.
        shape: of the model.
        port: where it answers.
        key: what whoever asks must send.
        on_gpu: whether it runs on GPUs.
    """
    assert cfg.max_model_len is not None and cfg.max_num_seqs is not None
    chosen: dict[str, Any] = {
        "model-path": model_path,
        "host": LOOPBACK,
        "port": port,
        "api-key": key,
        "dtype": cfg.dtype.value,
        "context-length": cfg.max_model_len + CONTEXT_MARGIN,
        "max-running-requests": cfg.max_num_seqs,
        "tp-size": cfg.tensor_parallel_size,
        "weight-version": "default",
        # Requests say how they are sampled; the model's own defaults would change the policy.
        "sampling-defaults": "openai",
        "skip-server-warmup": True,
        "log-level": "warning",
    }
    if cfg.max_num_batched_tokens is not None:
        chosen["chunked-prefill-size"] = cfg.max_num_batched_tokens
    if cfg.kv_cache_gib is not None:
        chosen["max-total-tokens"] = _cached_tokens(cfg, shape)
    if on_gpu:
        chosen["mem-fraction-static"] = cfg.gpu_memory_utilization
    else:
        chosen["device"] = "cpu"
    if cfg.enforce_eager:
        chosen |= {f"cuda-graph-backend-{phase}": "disabled" for phase in ("prefill", "decode")}
    if cfg.sglang.deterministic:
        chosen["enable-deterministic-inference"] = True
    return chosen


def _cached_tokens(cfg: GeneratorConfig, shape: ModelShape) -> int:
    """SGLang is told how many tokens each of its workers caches, and not how many bytes."""
    assert cfg.kv_cache_gib is not None
    value_bytes = 4 if cfg.dtype is GeneratorDtype.float32 else 2
    token_bytes = -(-value_bytes * shape.kept_values // cfg.tensor_parallel_size)
    return max((cfg.kv_cache_gib << 30) // token_bytes, 1)


def environment(cfg: GeneratorConfig, *, meeting: Path, port: int, on_gpu: bool) -> dict[str, str]:
    """Return what the processes of a server read when they start.

    Args:
        cfg: of the generators, resolved.
        meeting: a file that they have for themselves, for as long as they live.
        port: where the server answers.
        on_gpu: whether it runs on GPUs.
    """
    chosen = dict(os.environ)
    chosen.pop("PYTHONPATH", None)  # it names the packages of this environment
    chosen |= dict.fromkeys(
        INTERFACE_VARIABLES, interface_to(LOOPBACK)
    )  # a server stays on its host
    # Otherwise its workers meet in a store of torch's, which listens on all interfaces
    # (distributed/bootstrap.py). Memory that they share is named after the other two.
    chosen["SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE"] = f"file://{meeting}"
    chosen |= {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port)}
    # The margin may exceed the model's context, which no sequence does (configs/model_config.py).
    chosen["SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"] = "1"
    chosen["HF_HUB_OFFLINE"] = "1"  # everything is a path
    # Log-probs are those after temperature, whatever the user exports (layers/sampler.py).
    chosen["SGLANG_RETURN_ORIGINAL_LOGPROB"] = "0"
    if not on_gpu:
        chosen["SGLANG_USE_CPU_ENGINE"] = "1"  # utils/common.py, is_cpu
    if cfg.threads is not None:
        chosen["OMP_NUM_THREADS"] = str(cfg.threads)
    return chosen


def write_settings(chosen: Mapping[str, Any], path: Path) -> None:
    """Write them where nobody else may read the key."""
    import yaml

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        yaml.safe_dump(dict(chosen), file)


def command(python: str, settings_file: Path, arguments: list[str]) -> list[str]:
    """Return the command line of a server."""
    return [python, "-m", "sglang.launch_server", "--config", str(settings_file), *arguments]


def require_deterministic(cfg: GeneratorConfig, *, on_gpu: bool) -> None:
    """Raises UserError: it has no deterministic kernels there (arg_groups/attention_hook.py)."""
    if cfg.sglang.deterministic and not on_gpu:
        raise UserError(
            "generator.sglang.deterministic=true needs cluster.device=cuda: SGLang has no "
            "deterministic attention on a CPU; leave it out, or use generator.backend=vllm, whose "
            "samples follow from the seed everywhere"
        )
