"""The tables of docs/scale.md: steps of GRPO for models of 8B to 1T on 8 to 1,024 H100, and limits.

    .venv/bin/python benchmarks/scale_table.py

128 prompts of 300 tokens x 16 responses of 4,000 on average, at most 16,384; half of the GPUs
generate, one step ahead, half train under ZeRO-3 with activations computed twice and 16,384 tokens
a micro-batch. A push is one rank's broadcast; rlpost's own transports are in docs/scale.md.
"""

import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from published_figures import shapes  # noqa: E402

from rlpost.models.shape import ModelShape  # noqa: E402
from rlpost.roofline.communication import Layout  # noqa: E402
from rlpost.roofline.decoding import Engines  # noqa: E402
from rlpost.roofline.devices import BY_NAME  # noqa: E402
from rlpost.roofline.efficiency import EFFICIENCY  # noqa: E402
from rlpost.roofline.generation import DoesNotFit, Requests, generation_s  # noqa: E402
from rlpost.roofline.lengths import Lengths  # noqa: E402
from rlpost.roofline.pushing import push_s  # noqa: E402
from rlpost.roofline.steps import StepTime  # noqa: E402
from rlpost.roofline.training import forward_s, update_s  # noqa: E402
from rlpost.training.memory import frozen_footprint, trained_footprint  # noqa: E402
from rlpost.training.settings import TrainerConfig  # noqa: E402

DEVICE, GIB = BY_NAME["h100"], 2**30
NAMES = (
    "llama31_8b", "qwen3_32b", "llama3_70b", "qwen3_30b_a3b", "qwen3_235b_a22b", "deepseek_v3",
    "kimi_k2",
)  # fmt: skip
ASKED = Requests(
    prompts=128, samples=16, prompt_tokens=300, lengths=Lengths(mean=4000, longest=16384)
)
MICRO_BATCH = 16384
GPU_GIB = DEVICE.memory_bytes / GIB
TRANSPORTS = ("shared_memory", "gloo", "broadcast", "gathered")
LIMITS = (
    "fewest training GPUs with ZeRO-3, and training on them",
    "fewest GPUs of a frozen reference beside them, and its pass",
    "pages of pushes on the trainer's host", "push by shared memory", "by gloo",
    "by one rank's broadcast", "by all ranks",
)  # fmt: skip


def generation(shape: ModelShape, devices: int) -> tuple[int, float] | None:
    """Return the fastest division of engines, and its time; None: none fits."""
    times = {}
    for tensor in (1, 2, 4, 8, 16, 32):
        if tensor <= devices:
            engines = Engines(number=devices // tensor, tensor=tensor)
            with suppress(DoesNotFit):
                times[tensor] = generation_s(shape, DEVICE, engines, ASKED, overlapping=2)
    return min(times.items(), key=lambda each: each[1], default=None)


def training_gib(shape: ModelShape, devices: int) -> float:
    """Return the GiB that one of ``devices`` needs under ZeRO-3."""
    cfg = TrainerConfig(
        num_ranks=devices, zero_stage=3, gradient_checkpointing=True, logprob_chunk=2048
    )
    _, gpu = trained_footprint(
        "rank", shape, cfg, num_tokens=MICRO_BATCH, value_bytes=2, on_gpu=True
    )
    return gpu.peak_bytes / GIB


def reference(shape: ModelShape, *, tokens: float, length: float, training_s: float) -> str:
    """Return the fewest GPUs that hold a frozen reference, divided where they are several."""

    def fits(number: int) -> bool:
        _, gpu = frozen_footprint(
            "reference", shape, num_tokens=MICRO_BATCH, value_bytes=2, logprob_chunk=2048,
            on_gpu=True, sharing=number,
        )  # fmt: skip
        return gpu.peak_bytes / GIB <= GPU_GIB

    number = next(n for n in (2**power for power in range(15)) if fits(n))
    layout = Layout(devices=number, micro_batch_tokens=MICRO_BATCH * EFFICIENCY.filled)
    scoring_s = forward_s(shape, DEVICE, layout, tokens=tokens, length=length)
    return (
        f"{number}{', divided' if number > 1 else ''}: {scoring_s / training_s:.1f} times training"
    )


def train_s(shape: ModelShape, devices: int, *, tokens: float, length: float) -> float:
    """Return the seconds of one update of rlpost's trainer on ``devices``."""
    micro_batch = MICRO_BATCH * EFFICIENCY.filled
    layout = Layout(
        devices=devices,
        micro_batch_tokens=micro_batch,
        recomputed=1.0,
        gradient_bytes=TrainerConfig().reduce_dtype.size_bytes,
    )
    return update_s(
        shape, DEVICE, layout, tokens=tokens, length=length, overhead_s=EFFICIENCY.micro_batch_s
    )


def row(shape: ModelShape, devices: int) -> str:
    """Return one cell: GiB a training GPU, and seconds of a step and of its parts."""
    half = devices // 2
    gib = training_gib(shape, half)
    found = generation(shape, half)
    if gib > GPU_GIB or found is None:
        return "does not fit"
    tensor, generating = found
    tokens = ASKED.prompts * (ASKED.prompt_tokens + ASKED.samples * ASKED.lengths.mean)
    times = StepTime(
        generation_s=generating,
        training_s=train_s(
            shape, half, tokens=tokens, length=ASKED.prompt_tokens + ASKED.lengths.mean
        ),
        push_s=push_s(2 * shape.parameters, "broadcast"),
        overlaps=True,
    )
    return (
        f"{times.total_s:.0f} s ({times.generation_s:.0f} at {tensor}, {times.training_s:.0f}, "
        f"{times.push_s:.0f}); {gib:.0f} GiB"
    )


def limits(shape: ModelShape) -> list[str]:
    """Return where decisions of the design end for a model; see ``LIMITS``."""
    payload = 2 * shape.parameters
    fits = (n for n in (2**power for power in range(15)) if training_gib(shape, n) <= GPU_GIB)
    number = next(fits)
    tokens = ASKED.prompts * (ASKED.prompt_tokens + ASKED.samples * ASKED.lengths.mean)
    length = ASKED.prompt_tokens + ASKED.lengths.mean
    training = train_s(shape, number, tokens=tokens, length=length)
    return [
        f"{number}, {training:,.0f} s",
        reference(shape, tokens=tokens, length=length, training_s=training),
        f"{2 * payload / GIB:,.0f} GiB",
        *(f"{push_s(payload, each):,.0f} s" for each in TRANSPORTS),
    ]


def main() -> None:
    counts = (8, 32, 64, 128, 256, 1024)
    print(f"| model | {' | '.join(map(str, counts))} |\n|---|{'---|' * len(counts)}")
    models = shapes()
    for name in NAMES:
        cells = [row(models[name], devices) for devices in counts]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n| model | {' | '.join(LIMITS)} |\n|---|{'---|' * len(LIMITS)}")
    for name in NAMES:
        print(f"| {name} | {' | '.join(limits(models[name]))} |")


if __name__ == "__main__":
    main()
