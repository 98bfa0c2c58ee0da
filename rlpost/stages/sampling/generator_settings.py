"""Settings of generators that fit the machine and the model, or a refusal.

Owns what is refused. Refuses to own the settings (rollout/generator_config.py) and the values of
``null`` and ``auto`` (generation.py).
"""

import os
from dataclasses import replace
from typing import Any

from rlpost.cluster.session import ClusterConfig, Device
from rlpost.control.placement import Placement
from rlpost.errors import UserError
from rlpost.models.locate import context_length
from rlpost.models.shape import model_shape
from rlpost.rollout.device_defaults import (
    SETUP_ON_CPU_S,
    SETUP_ON_GPU_S,
    require_whole_prompts,
)
from rlpost.rollout.generator_config import AdapterCapacity, Backend, GeneratorConfig
from rlpost.rollout.tensor_parallel import require_divisible
from rlpost.rollout.vllm.architectures import require_vllm_adapters
from rlpost.rollout.vllm.quantization import require_quantizable
from rlpost.stages.sampling.backend import require_backend, require_pushes, shows_kernels
from rlpost.stages.sampling.generation import resolved_generator
from rlpost.training.adapters.adaptation import Adaptation
from rlpost.training.adapters.config import Served, refuse_supervised_only
from rlpost.training.adapters.serving import engine_rank
from rlpost.training.precision import has_avx512
from rlpost.training.settings import TrainerConfig
from rlpost.weights.publisher import WeightsConfig
from rlpost.weights.transports.choice import Transport


def resolve_generator(
    generator: GeneratorConfig,
    *,
    cluster: ClusterConfig,
    device: Device,
    model_path: str,
    max_tokens: int,
    field: str,
    trainer: TrainerConfig,
) -> GeneratorConfig:
    """Fill in what depends on machine and model; refuse what neither can give.

    Args:
        generator: as the user set it.
        cluster: where it will run.
        device: what it will run on.
        model_path: what the engines load.
        max_tokens: of a response.
        field: the setting of ``max_tokens``, for errors.
        trainer: whose number format ``generator.dtype=auto`` follows.

    Raises:
        UserError: names the field, its value and the way out.
    """
    cores = len(os.sched_getaffinity(0))
    local_cpu = device is Device.cpu and cluster.address is None
    if local_cpu and generator.num > cores:
        raise UserError(
            f"generator.num must be at most the number of cores, {cores} here, got "
            f"{generator.num}; one engine with more threads is faster than several with less"
        )
    require_backend(generator, cluster=cluster, device=device)
    require_divisible(generator.tensor_parallel_size, model_shape(model_path))
    context = context_length(model_path)
    length = generator.max_model_len or context
    if length > context:
        raise UserError(
            f"generator.max_model_len must be at most the model's context of {context} tokens, "
            f"got {length}"
        )
    if max_tokens >= length:
        raise UserError(
            f"{field} must leave room for a prompt in the {length} tokens of "
            f"{'generator.max_model_len' if generator.max_model_len else 'the model context'}, "
            f"got {max_tokens}"
        )
    resolved = resolved_generator(generator, trainer, device=device)
    resolved = replace(resolved, max_model_len=length)
    require_whole_prompts(resolved, on_gpu=device is Device.cuda)
    require_quantizable(
        resolved,
        on_gpu=device is Device.cuda,
        head_dim=model_shape(model_path).head_dim,
        has_avx512=has_avx512() or cluster.address is not None,  # others' CPUs are not known here
    )
    return resolved


def resolve_pushed(
    generator: GeneratorConfig,
    cfg: Any,
    *,
    device: Device,
    adapters: AdapterCapacity | None,
    runs_ahead: bool,
) -> GeneratorConfig:
    """Check that engines can be pushed to, and say whether they leave their GPUs meanwhile.

    Args:
        generator: the engines', resolved.
        cfg: options of a stage that pushes.
        device: what the engines run on.
        adapters: that are pushed to them; None: whole models are.
        runs_ahead: whether they answer while the trainer works.

    Raises:
        UserError: this backend cannot take such pushes, their comparison was asked for where there
            is none, or sleep was asked for and cannot be.
    """
    require_pushes(
        cfg.generator, transport=cfg.weights.transport, adapters=adapters, cluster=cfg.cluster
    )
    _require_compared(cfg.weights, backend=generator.backend, adapters=adapters)
    return resolve_sleep(
        generator,
        cluster=cfg.cluster,
        weights=cfg.weights,
        device=device,
        adapters=adapters,
        runs_ahead=runs_ahead,
    )


def _require_compared(
    weights: WeightsConfig, *, backend: Backend, adapters: AdapterCapacity | None
) -> None:
    """Raises UserError: engines shall be compared with each other, and they never are."""
    if weights.compare_every in (None, WeightsConfig().compare_every):
        return
    said = f"weights.compare_every={weights.compare_every} has no effect"
    if adapters is not None:
        raise UserError(
            f"{said} where only an adapter is pushed: the weights below it stay as engines have "
            "read them; leave it out"
        )
    if not shows_kernels(backend):
        raise UserError(
            f"{said} with generator.backend={backend.value}, which does not show what its kernels "
            "hold; leave it out, or use generator.backend=vllm"
        )


def resolve_sleep(
    generator: GeneratorConfig,
    *,
    cluster: ClusterConfig,
    weights: WeightsConfig,
    device: Device,
    adapters: AdapterCapacity | None,
    runs_ahead: bool,
) -> GeneratorConfig:
    """Say whether engines leave their GPUs while others train.

    Args:
        generator: the engines'.
        cluster: where they run.
        weights: how they get the weights that bring them back.
        device: what they run on.
        adapters: that are pushed to them; None: whole models are.
        runs_ahead: whether they answer while the trainer works.

    Raises:
        UserError: it was asked for, and cannot be.
    """
    where = f"cluster.placement={cluster.placement.value}"
    reasons = {
        "needs GPUs to leave, and this run is on a CPU; leave it out": device is Device.cpu,
        f"has no effect with {where}, where engines have GPUs of their own; set "
        "cluster.placement=colocated, or leave it out": (
            cluster.placement is not Placement.colocated
        ),
        "needs cluster.offload_idle=true, because what trains has to leave, too": (
            not cluster.offload_idle
        ),
        "has engines generate and train in turn, and rl.max_staleness or rl.oversample have them "
        "do both at once; leave one of them out": runs_ahead,
        "needs pushes of the whole model, and only an adapter is pushed; leave it out": (
            adapters is not None
        ),
        "needs vLLM, which gives its memory away; use generator.backend=vllm": (
            generator.backend is not Backend.vllm
        ),
        f"needs a copy of the weights on the host, and weights.transport={weights.transport.value} "
        "keeps none there, or not on every host; use shared_memory or filesystem": (
            weights.transport not in _ON_HOST
            # It streams if engines turn out to be on other hosts than the trainer.
            and not (weights.transport is Transport.auto and cluster.address is None)
        ),
    }
    reason = next((words for words, holds in reasons.items() if holds), None)
    if generator.sleep and reason is not None:
        raise UserError(f"generator.sleep=true {reason}")
    return replace(generator, sleep=reason is None if generator.sleep is None else generator.sleep)


_ON_HOST = (Transport.shared_memory, Transport.filesystem)


def refuse_sleep(generator: GeneratorConfig) -> None:
    """Raises UserError: engines shall sleep while a model trains, and none does."""
    if generator.sleep:
        raise UserError(
            "generator.sleep=true has no effect where nothing trains beside the engines; leave it "
            "out"
        )


def adapter_capacity(
    adapter: Adaptation | None,
    *,
    architecture: str,
    has_experts: bool,
    device: Device,
    max_staleness: int,
) -> AdapterCapacity | None:
    """Return the room for adapters that engines need; None: whole models are pushed to them.

    Args:
        adapter: what is trained on the policy.
        architecture: the policy's.
        has_experts: whether the policy is a mixture of experts.
        device: where engines run.
        max_staleness: steps by which training may lag.

    Raises:
        UserError: engines can hold no adapter of that kind, of that rank or beside that model.
    """
    if adapter is None:
        return None
    why = "generators answer, which put nothing in front of a prompt"
    refuse_supervised_only(adapter.config, why=why)
    if adapter.served is not Served.adapter:
        return None
    require_vllm_adapters(
        architecture,
        has_experts=has_experts,
        on_gpu=device is Device.cuda,
        field="model.path",
        way_out="train all weights with adapter=none",
    )
    rank = engine_rank(adapter.config.served_rank)
    return AdapterCapacity.of(rank=rank, max_staleness=max_staleness)


def check_deadlines(cfg: Any, *, device: Device | None = None) -> None:
    """Check that an actor that hangs is replaced before the run as a whole counts as stuck.

    Args:
        cfg: options of a stage that trains and generates.
        device: where models will run; None: not known yet, so that ``auto`` is taken for the CPU,
            whose engines need less time.

    Raises:
        UserError: it would not be.
    """
    on_gpu = (device or cfg.cluster.device) is Device.cuda
    setup_s = SETUP_ON_GPU_S if on_gpu else SETUP_ON_CPU_S
    needed_s = cfg.cluster.call_timeout_s + (cfg.generator.setup_timeout_s or setup_s)
    if cfg.failures.stuck_after_s <= needed_s:
        raise UserError(
            f"failures.stuck_after_s must be above {needed_s:g} s (cluster.call_timeout_s and "
            f"generator.setup_timeout_s together), got {cfg.failures.stuck_after_s:g}: a trainer "
            "that hangs would end the run before it could be restarted; lower the other two as "
            "well"
        )
