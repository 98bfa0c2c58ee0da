"""What engines need that compute or remember in fewer bits than their dtype, and what that costs.

Owns the refusals and the sentences of ``rlpost plan``. Refuses to own the options
(generator_config.py) and the bound of the probe (weights/protocol.py). Pure.
"""

from rlpost.errors import UserError
from rlpost.rollout.generator_config import (
    EngineConfig,
    GeneratorDtype,
    KVCacheDtype,
    Quantization,
)

_HEAD_MULTIPLE = 32  # of vLLM's CPU attention, for a cache in fp8


def require_quantizable(
    cfg: EngineConfig, *, on_gpu: bool, head_dim: int, has_avx512: bool
) -> None:
    """Refuse what the device cannot compute.

    Args:
        cfg: with ``dtype`` resolved.
        on_gpu: whether it runs on GPUs.
        head_dim: values of a head of attention.
        has_avx512: whether the CPU has it, where it runs on one.

    Raises:
        UserError: names the field, its value and the way out.
    """
    if cfg.quantization is not Quantization.none:
        _require_linear_kernels(cfg, on_gpu=on_gpu)
    if cfg.kv_cache_dtype is KVCacheDtype.auto or on_gpu:
        return
    if not has_avx512:
        raise UserError(
            f"generator.kv_cache_dtype={cfg.kv_cache_dtype.value} needs a CPU with AVX-512, which "
            "this one lacks; leave it out"
        )
    if head_dim % _HEAD_MULTIPLE:
        raise UserError(
            f"generator.kv_cache_dtype={cfg.kv_cache_dtype.value} needs heads of a multiple of "
            f"{_HEAD_MULTIPLE} values on a CPU, and this model's have {head_dim}; leave it out"
        )


def _require_linear_kernels(cfg: EngineConfig, *, on_gpu: bool) -> None:
    named = f"generator.quantization={cfg.quantization.value}"
    if not on_gpu:
        raise UserError(
            f"{named} needs a GPU: vLLM has no kernel for it on a CPU; leave it out, or save "
            "memory with generator.kv_cache_dtype=fp8, which runs here"
        )
    if cfg.dtype is GeneratorDtype.float32:
        raise UserError(
            f"{named} rounds weights of 16 bits, and generator.dtype is float32; set "
            "generator.dtype=bfloat16"
        )


def quantization_notes(cfg: EngineConfig, *, bound: float, corrected: bool | None) -> list[str]:
    """Return what differs between sampler and trainer, for ``rlpost plan``; none if nothing does.

    Args:
        cfg: the engines'.
        bound: of the probe, in nats.
        corrected: whether the loss weighs tokens by the ratio of trainer and sampler; None: nothing
            is learned from what is sampled.
    """
    if not cfg.is_quantized:
        return []
    parts = {
        f"multiply with weights in {cfg.quantization.value}": (
            cfg.quantization is not Quantization.none
        ),
        f"keep keys and values in {cfg.kv_cache_dtype.value}": (
            cfg.kv_cache_dtype is not KVCacheDtype.auto
        ),
    }
    what = " and ".join(part for part, holds in parts.items() if holds)
    advice = (
        "; what they sample is off-policy from the first update, which "
        "algorithm/corrections=[tis] algorithm.anchor=proximal makes up for"
        if corrected is False
        else ""
    )
    return [
        f"Generators {what}, and the trainer does not: a push may change log-probs by {bound:g} "
        f"nats on average (weights.probe_max_diff){advice}."
    ]
