"""What a generator's backend cannot do, said by a plan.

Owns the refusals of SGLang: what is missing, and what it or its generators do not have. Refuses to
own what it can do (rollout/sglang/). Invariant: what is refused here would otherwise fail when a
run has begun.
"""

import re
import subprocess
import sys

from rlpost.cluster.session import ClusterConfig, Device
from rlpost.errors import UserError
from rlpost.rollout.generator_config import AdapterCapacity, Backend, GeneratorConfig
from rlpost.rollout.sglang.command import require_deterministic
from rlpost.rollout.vllm.architectures import require_vllm_architecture
from rlpost.weights.transports.choice import Transport

_LOOK_S = 60.0
_OLDEST = (0, 5, 23)  # whose source the requests were written after
_MISSING = "that interpreter has no package sglang"
_VERSION = "import importlib.metadata as m; print(m.version('sglang'))"
_REACHING = (Transport.auto, Transport.shared_memory, Transport.filesystem)


def require_architecture(cfg: GeneratorConfig, name: str, *, field: str) -> None:
    """Check that generators can run an architecture; what SGLang can, it says at its start.

    Raises:
        UserError: they cannot.
    """
    if cfg.backend is Backend.vllm:
        require_vllm_architecture(name, field=field)


def shows_kernels(backend: Backend) -> bool:
    """Whether engines can be compared by what their kernels hold, which SGLang does not show."""
    return backend is Backend.vllm


def require_backend(cfg: GeneratorConfig, *, cluster: ClusterConfig, device: Device) -> None:
    """Check that the backend is there and can do what its options ask for.

    Raises:
        UserError: it is not, or cannot.
    """
    if cfg.backend is Backend.vllm:
        return
    require_deterministic(cfg, on_gpu=device is Device.cuda)
    if cfg.is_quantized:
        raise UserError(
            "generator.quantization and generator.kv_cache_dtype are options of vLLM; leave them "
            "out, or use generator.backend=vllm"
        )
    if cluster.address is None:  # otherwise it has to be elsewhere
        _require_package(cfg.sglang.python or sys.executable)


def _require_package(python: str) -> None:
    try:
        found = subprocess.run(
            [python, "-c", _VERSION], capture_output=True, text=True, timeout=_LOOK_S, check=False
        )
        why = _refusal(found.stdout.strip()) if found.returncode == 0 else _MISSING
    except (OSError, subprocess.TimeoutExpired) as error:
        why = f"it cannot be run: {error}"
    if why:
        raise UserError(
            f"generator.sglang.python={python}: {why}; make an environment for SGLang, which pins "
            f"another torch than rlpost does (python -m venv DIR && DIR/bin/pip install "
            f"sglang=={_written(_OLDEST)}), and set generator.sglang.python=DIR/bin/python, or use "
            "generator.backend=vllm"
        )


def _refusal(version: str) -> str:
    """Return why an SGLang is too old; empty if it is not."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if numbers >= _OLDEST:
        return ""
    return f"its SGLang is {version or 'of no version'}, older than {_written(_OLDEST)}"


def _written(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def require_pushes(
    cfg: GeneratorConfig,
    *,
    transport: Transport,
    adapters: AdapterCapacity | None,
    cluster: ClusterConfig,
) -> None:
    """Check that what is trained can be pushed to the backend.

    Args:
        cfg: of the generators.
        transport: how payloads travel.
        adapters: that engines must hold beside each other; None: whole models are pushed.
        cluster: where engines will run.

    Raises:
        UserError: it cannot.
    """
    if cfg.backend is Backend.vllm:
        return
    if adapters is not None:
        raise UserError(
            "generator.backend=sglang takes whole models, and this adapter is pushed beside its "
            "base; use generator.backend=vllm, or adapter=none"
        )
    if transport not in _REACHING:
        raise UserError(
            f"weights.transport={transport.value} does not reach generator.backend=sglang; set "
            "weights.transport=filesystem, which crosses hosts, or leave it out on one host"
        )
    if transport is Transport.auto and cluster.address is not None:
        raise UserError(
            "weights.transport=auto may choose what does not reach generator.backend=sglang on a "
            "cluster of several hosts; set weights.transport=filesystem, or shared_memory where "
            "all sit on one host"
        )
