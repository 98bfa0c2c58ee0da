"""The timings of `gpu_check.py`: attention alone, then the trainer and plain torch loops.

The model has the shape of Llama 3.2 1B with random weights; the samples are like those of RL
(groups of 8, prompts of 200 tokens, responses of 200 to 1000).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from gpu_section import Finding, Models
from torch import Tensor
from trainer_throughput import HEADER, Mix, Speed, compare, measure, show

from rlpost.training.model import attention_varlen
from rlpost.training.model.attention import PackedLayout, attend_one_by_one
from rlpost.training.model.attention_segment import Scoring
from rlpost.training.precision import compute_device
from rlpost.training.settings import DType, TrainerConfig

MIX = Mix(prompts=16, prompt_tokens=200, response_tokens=(200, 1000))
TINY = Mix(prompts=2, prompt_tokens=20, response_tokens=(20, 100))


def attention_ms(mix: Mix, *, budget: int) -> dict[str, float]:
    """Forward and backward of one layer of Llama 3.2 1B over the largest micro-batch."""
    device = compute_device()
    batch = max(mix.batches(1000, budget=budget), key=lambda b: b.num_tokens)
    layout = PackedLayout.of(batch.blocks, device=device)
    qkv = [
        torch.randn(1, batch.num_tokens, heads, 64, device=device, dtype=torch.bfloat16)
        .transpose(1, 2)
        .requires_grad_()
        for heads in (32, 8, 8)
    ]
    scoring = Scoring(scaling=0.125)
    ways: dict[str, Callable[[], Tensor]] = {
        "one call a sequence": lambda: attend_one_by_one(*qkv, layout=layout, scoring=scoring)
    }
    kernel = attention_varlen.kernel_for(qkv[0], scoring)
    if kernel is not None:
        ways["one flash call"] = lambda: attention_varlen.attend(
            kernel, *qkv, sequences=layout.sequences, scoring=scoring
        )
    found = {}
    for name, way in ways.items():

        def step(way: Callable[[], Tensor] = way) -> None:
            output = way()
            torch.autograd.grad(output, qkv, torch.ones_like(output))

        seconds, _ = measure(step, 9)
        found[f"{name}, {batch.num_tokens} tokens, {len(layout.segments)} segments"] = 1e3 * seconds
    return found


def config_of(models: Models, budget: int) -> TrainerConfig:
    dtype = DType.float32 if models.tiny else DType.bfloat16
    return TrainerConfig(dtype=dtype, max_tokens_per_micro_batch=2048 if models.tiny else budget)


def timed_sides(
    models: Models, variants: list[tuple[str, TrainerConfig]]
) -> Iterator[tuple[Finding, Speed]]:
    mix = TINY if models.tiny else MIX
    print(HEADER, flush=True)
    for speed in compare(models.large, mix, variants, repetitions=models.repetitions):
        show(speed)
        what = f"{speed.side}: response tokens"
        yield Finding(check=what, value=speed.response_tokens_per_s, unit=" a second"), speed


def beside_bare(models: Models, *, budget: int, least_ratio: float) -> Iterator[Finding]:
    """The trainer over the best torch loop on the same micro-batches."""
    cfg = config_of(models, budget)
    speeds = []
    sides = [(f"{side}, {budget} tokens a micro-batch", cfg) for side in ("bare", "deepspeed")]
    for finding, speed in timed_sides(models, sides):
        speeds.append(speed)
        yield finding
    ratio = speeds[0].step_s / speeds[1].step_s
    if models.tiny:  # a ratio of launches, which says nothing of a GPU
        yield Finding(check=f"of bare torch at {budget}", value=ratio)
    else:
        yield Finding(check=f"of bare torch at {budget}", value=ratio, least=least_ratio)


def speed_2k(models: Models) -> Iterator[Finding]:
    yield from beside_bare(models, budget=2048, least_ratio=0.90)


def speed_8k(models: Models) -> Iterator[Finding]:
    yield from beside_bare(models, budget=8192, least_ratio=0.90)


def speed_16k(models: Models) -> Iterator[Finding]:
    yield from beside_bare(models, budget=16384, least_ratio=0.95)


def stages(models: Models) -> Iterator[Finding]:
    """Every ZeRO stage, gradient checkpointing, and the head's chunks."""
    cfg = config_of(models, 16384)
    variants = [(f"deepspeed, stage {n}", replace(cfg, zero_stage=n)) for n in range(4)]
    variants.append(("deepspeed, checkpointing", replace(cfg, gradient_checkpointing=True)))
    for chunk in (2048, 8192):
        variants.append((f"deepspeed, logprob_chunk {chunk}", replace(cfg, logprob_chunk=chunk)))
    for finding, _ in timed_sides(models, variants):
        yield finding


def padded(models: Models) -> Iterator[Finding]:
    """Padded rows and own prompts, beside shared prompts."""
    cfg = config_of(models, 16384)
    own = ("deepspeed, own prompts", replace(cfg, share_prompts=False))
    for finding, _ in timed_sides(models, [("padded", cfg), own, ("deepspeed", cfg)]):
        yield finding


def attention(models: Models) -> Iterator[Finding]:
    """One layer's attention, forward and backward."""
    mix, budget = (TINY, 2048) if models.tiny else (MIX, 16384)
    for way, milliseconds in attention_ms(mix, budget=budget).items():
        yield Finding(check=f"attention of one layer, {way}", value=milliseconds, unit=" ms")
