"""The timings of `gpu_check.py`: attention alone, then the trainer and plain torch loops.

The model has the shape of Llama 3.2 1B with random weights; the samples are like those of RL
(groups of 8, prompts of 200 tokens, responses of 200 to 1000).
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from trainer_throughput import HEADER, Mix, compare, measure, show
from transformers.utils.logging import disable_progress_bar

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


def variants(tiny: bool) -> list[tuple[str, TrainerConfig]]:
    budget = 2048 if tiny else 16384
    cfg = TrainerConfig(
        dtype=DType.float32 if tiny else DType.bfloat16, max_tokens_per_micro_batch=budget
    )
    saving = replace(cfg, gradient_checkpointing=True)
    found = [
        ("padded", cfg),
        ("bare", cfg),
        ("deepspeed", cfg),
        ("padded, checkpointing", saving),
        ("bare, checkpointing", saving),
        ("deepspeed, checkpointing", saving),
        ("deepspeed, own prompts", replace(cfg, share_prompts=False)),
    ]
    for chunk in (2048, 8192):
        found.append((f"deepspeed, logprob_chunk {chunk}", replace(cfg, logprob_chunk=chunk)))
    for tokens in (8192, 2048):
        small = replace(cfg, max_tokens_per_micro_batch=tokens)
        found += [(f"bare, {tokens} tokens a micro-batch", small)]
        found += [(f"deepspeed, {tokens} tokens a micro-batch", small)]
    for stage in (0, 1, 3):
        found.append((f"deepspeed, stage {stage}", replace(cfg, zero_stage=stage)))
    return found


def run_speed(model_path: str, tiny: bool, repetitions: int) -> dict[str, Any]:
    """Print both tables; returns what goes into the JSON."""
    disable_progress_bar()
    mix = TINY if tiny else MIX
    layer_ms = attention_ms(mix, budget=2048 if tiny else 16384)
    for way, milliseconds in layer_ms.items():
        print(f"attention of one layer, {way}: {milliseconds:.2f} ms", flush=True)
    print(HEADER, flush=True)
    speeds = []
    for speed in compare(model_path, mix, variants(tiny), repetitions=repetitions):
        show(speed)
        speeds.append(asdict(speed))
    return {"attention_ms": layer_ms, "speeds": speeds}
