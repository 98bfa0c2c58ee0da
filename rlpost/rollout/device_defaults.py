"""What a generator's options mean that the user left at null, on a CPU and on a GPU.

Owns the values. Refuses to own what the machine and the model make of them
(stages/sampling/generator_settings.py). Pure.
"""

from dataclasses import replace
from typing import TypeVar

from rlpost.errors import UserError
from rlpost.rollout.generator_config import EngineConfig, GeneratorConfig

E = TypeVar("E", bound=EngineConfig)

SETUP_ON_CPU_S, SETUP_ON_GPU_S = 300.0, 1200.0


def with_device_defaults(cfg: GeneratorConfig, *, on_gpu: bool, cores: int) -> GeneratorConfig:
    """Fill in what is null; what the user has set stays.

    ======================== =============================== ===============================
    option                   on a CPU                        on a GPU
    ======================== =============================== ===============================
    ``enforce_eager``        true: compiling takes a minute  false: CUDA graphs
                             and gains nothing measurable
    ``max_num_seqs``         128                             256
    ``max_num_batched_tokens`` null: vLLM takes the longest  8192: vLLM would take 2048 from
                             sequence, as no prompt is cut   an engine that names no use
    ``threads``              the cores shared among all      null: vLLM decides, which knows
                             workers                         its processes
    ``kv_cache_gib``         1                               null: vLLM measures what of
                                                             ``gpu_memory_utilization`` is
                                                             left by weights and activations
    ``setup_timeout_s``      300                             1200: graphs are captured, and
                                                             large models read
    ``max_model_len``        the model's context             longest prompt and response, as
                                                             more wants cache that nobody uses
    ======================== =============================== ===============================

    ``max_model_len`` needs the prompts and ``sleep`` the placement: they are filled in elsewhere,
    see ``shortest_length`` and ``resolve_sleep``.

    Args:
        cfg: as the user set it.
        on_gpu: whether engines run on GPUs.
        cores: that all workers of all engines share, where they run on a CPU.
    """
    setup_s = SETUP_ON_GPU_S if on_gpu else SETUP_ON_CPU_S
    timed = replace(cfg, setup_timeout_s=cfg.setup_timeout_s or setup_s)
    return with_engine_defaults(timed, on_gpu=on_gpu, cores=cores // cfg.num)


def with_engine_defaults(cfg: E, *, on_gpu: bool, cores: int) -> E:
    """Fill in what is null of a single engine; see ``with_device_defaults``.

    Args:
        cfg: as the user set it.
        on_gpu: whether it runs on GPUs.
        cores: that its workers share, where they run on a CPU.
    """
    if on_gpu:
        return replace(
            cfg,
            enforce_eager=bool(cfg.enforce_eager),
            max_num_seqs=cfg.max_num_seqs or 256,
            max_num_batched_tokens=cfg.max_num_batched_tokens or 8192,
        )
    return replace(
        cfg,
        enforce_eager=cfg.enforce_eager is not False,
        max_num_seqs=cfg.max_num_seqs or 128,
        threads=cfg.threads or max(1, cores // cfg.tensor_parallel_size),
        kv_cache_gib=cfg.kv_cache_gib or 1,
    )


def shortest_length(
    cfg: GeneratorConfig, *, given: int | None, on_gpu: bool, longest_prompt: int, max_tokens: int
) -> GeneratorConfig:
    """Return ``cfg`` with sequences no longer than the run has, on a GPU.

    Args:
        cfg: with ``max_model_len`` filled in, within which the prompts were read.
        given: ``max_model_len`` as the user set it; None: not at all.
        on_gpu: whether engines run on GPUs.
        longest_prompt: tokens of the longest one that is asked.
        max_tokens: of a response.
    """
    if not on_gpu or given is not None:
        return cfg
    return replace(cfg, max_model_len=longest_prompt + max_tokens)


def require_whole_prompts(cfg: EngineConfig, *, on_gpu: bool) -> None:
    """Check ``max_num_batched_tokens`` against the longest sequence, on a CPU.

    Raises:
        UserError: a prompt would be cut into steps, which the CPU engine does not survive.
    """
    step, length = cfg.max_num_batched_tokens, cfg.max_model_len
    if on_gpu or step is None or length is None or step >= length:
        return
    raise UserError(
        f"generator.max_num_batched_tokens must be at least generator.max_model_len={length} on a "
        f"CPU, where no prompt is cut into several steps, got {step}; leave it out, or lower "
        "generator.max_model_len as well"
    )


def groups_at_once(cfg: GeneratorConfig, *, group_size: int) -> int:
    """Return how many groups one engine works on: twice what it can hold, so that it never waits.

    Args:
        cfg: the engines', resolved.
        group_size: responses per prompt.
    """
    assert cfg.max_num_seqs is not None, "with_device_defaults comes first"
    return -(-2 * cfg.max_num_seqs // group_size)


def in_words(cfg: GeneratorConfig) -> str:
    """Return what was resolved, in one sentence."""
    kind = "eager" if cfg.enforce_eager else "compiled"
    threads = "" if cfg.threads is None else f", {cfg.threads} threads a worker"
    step = cfg.max_num_batched_tokens
    steps = "" if step is None else f", in steps of up to {step:,} tokens"
    turns = " It leaves its GPUs while others train, and comes back by a push." if cfg.sleep else ""
    return (
        f"An engine works on up to {cfg.max_num_seqs} responses at once, of up to "
        f"{cfg.max_model_len:,} tokens with their prompts{steps}, {kind}{threads}; it may take "
        f"{cfg.setup_timeout_s:g} s to start.{turns}"
    )
