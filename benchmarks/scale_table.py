"""The table of docs/scale.md: a step of GRPO for models of 8B to 1T on 8 to 1,024 H100.

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
from rlpost.roofline.devices import BY_NAME  # noqa: E402
from rlpost.roofline.efficiency import EFFICIENCY  # noqa: E402
from rlpost.roofline.generation import DoesNotFit, Engines, Requests, generation_s  # noqa: E402
from rlpost.roofline.lengths import Lengths  # noqa: E402
from rlpost.roofline.pushing import push_s  # noqa: E402
from rlpost.roofline.steps import StepTime  # noqa: E402
from rlpost.roofline.training import Layout, update_s  # noqa: E402
from rlpost.training.memory import trained_footprint  # noqa: E402
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


def generation(shape: ModelShape, devices: int) -> tuple[int, float] | None:
    """Return the fastest division of engines, and its time; None: none fits."""
    times = {}
    for tensor in (1, 2, 4, 8, 16, 32):
        if tensor <= devices:
            engines = Engines(number=devices // tensor, tensor=tensor)
            with suppress(DoesNotFit):
                times[tensor] = generation_s(shape, DEVICE, engines, ASKED, overlapping=2)
    return min(times.items(), key=lambda each: each[1], default=None)


def row(shape: ModelShape, devices: int) -> str:
    """Return one cell: GiB a training GPU, and seconds of a step and of its parts."""
    half = devices // 2
    cfg = TrainerConfig(
        num_ranks=half, zero_stage=3, gradient_checkpointing=True, logprob_chunk=2048
    )
    _, gpu = trained_footprint(
        "rank", shape, cfg, num_tokens=MICRO_BATCH, value_bytes=2, on_gpu=True
    )
    found = generation(shape, half)
    if gpu.peak_bytes > DEVICE.memory_bytes or found is None:
        return "does not fit"
    tensor, generating = found
    tokens = ASKED.prompts * (ASKED.prompt_tokens + ASKED.samples * ASKED.lengths.mean)
    times = StepTime(
        generation_s=generating,
        training_s=update_s(
            shape,
            DEVICE,
            Layout(
                devices=half, micro_batch_tokens=MICRO_BATCH * EFFICIENCY.filled, recomputed=1.0
            ),
            tokens=tokens,
            length=ASKED.prompt_tokens + ASKED.lengths.mean,
            overhead_s=EFFICIENCY.micro_batch_s,
        ),
        push_s=push_s(2 * shape.parameters, "broadcast"),
        overlaps=True,
    )
    return (
        f"{times.total_s:.0f} s ({times.generation_s:.0f} at {tensor}, {times.training_s:.0f}, "
        f"{times.push_s:.0f}); {gpu.peak_bytes / GIB:.0f} GiB"
    )


def main() -> None:
    counts = (8, 32, 64, 128, 256, 1024)
    print(f"| model | {' | '.join(map(str, counts))} |\n|---|{'---|' * len(counts)}")
    models = shapes()
    for name in NAMES:
        cells = [row(models[name], devices) for devices in counts]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
