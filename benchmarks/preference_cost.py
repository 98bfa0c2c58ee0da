"""What a shared prompt saves: DPO with each pair's prompt once, and with it twice.

    .venv/bin/python benchmarks/preference_cost.py

One rank learns pairs with prompts of 400 tokens and answers of 64, packed as ``rlpost preference``
packs them and with ``trainer.share_prompts=false``, in turn. It prints medians of wall time and of
the process's own time, which other programs on the machine change less, for the update's forward
and backward pass and for the reference's forward pass.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from compared_models import lone_trainer

from rlpost.algorithms.preference import PreferenceObjective
from rlpost.data.example import Example
from rlpost.models.embedded import NAME as EMBEDDED_MODEL
from rlpost.models.locate import locate_model
from rlpost.stages.preference.batch import ResponsePacker
from rlpost.training.packing.pack import Packed
from rlpost.training.settings import DType, TrainerConfig
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer

VOCABULARY = 1000  # ids that every model has
NO_CHANGE = 1e-30  # a learning rate that changes no weight


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=EMBEDDED_MODEL)
    parser.add_argument("--prompt", type=int, default=400, help="tokens of a prompt")
    parser.add_argument("--answer", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    cfg = TrainerConfig(dtype=DType.float32, lr=NO_CHANGE, steps=10**6, warmup_steps=0)
    examples = random_pairs(args)
    ways = {"once": packed(examples, share=True), "twice": packed(examples, share=False)}
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with lone_trainer(locate_model(args.model), cfg) as trainer:
        for repeat in range(args.repeats + 1):  # the first warms up
            for number, (way, batch) in enumerate(ways.items(), start=1):
                for part, seconds in measured(trainer, batch, 2 * repeat + number).items():
                    if repeat:
                        found.setdefault((part, way), []).append(seconds)
    show(args, found)


def show(args: argparse.Namespace, found: dict[tuple[str, str], list[tuple[float, float]]]) -> None:
    """Print the medians and their ratios as a table."""
    print(f"| {args.pairs} pairs, {args.prompt} + 2 x {args.answer} tokens | wall | own time |")
    print("|---|---|---|")
    for part in ("update", "reference"):
        medians = {
            way: [statistics.median(each[clock] for each in found[part, way]) for clock in (0, 1)]
            for way in ("once", "twice")
        }
        for way, (wall_s, own_s) in medians.items():
            print(f"| {part}, prompt {way} | {wall_s:.2f} s | {own_s:.2f} s |")
        shares = [once / twice for once, twice in zip(*medians.values(), strict=True)]
        print(f"| {part}, once / twice | {shares[0]:.3f} | {shares[1]:.3f} |")


def random_pairs(args: argparse.Namespace) -> list[Example]:
    """Return pairs of random tokens, the two sides of each behind one prompt."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(args.pairs):
        prompt = rng.integers(1, VOCABULARY, args.prompt)
        for _ in range(2):
            ids = np.concatenate([prompt, rng.integers(1, VOCABULARY, args.answer)])
            trained = np.arange(len(ids)) >= args.prompt
            found.append(
                Example(ids=ids.astype(np.int32), trained=trained, address=f"pair {number}")
            )
    return found


def packed(examples: list[Example], *, share: bool) -> Packed:
    """Pack each pair as a micro-batch of its own, so that both ways have equally many."""
    packer = ResponsePacker(
        num_ranks=1, max_tokens=10**6, judged=False, fill=False, share_prompts=share
    )
    zeros = {
        number: np.zeros(int(each.trained.sum()), np.float32)
        for number, each in enumerate(examples)
    }
    return packer(examples).attach(ref_logprobs_R=zeros)


def measured(trainer: DeepSpeedTrainer, batch: Packed, step: int) -> dict[str, tuple[float, float]]:
    """Return wall time and own time of each part of a step, in seconds."""
    objective, (mine,) = PreferenceObjective(), batch.batches
    times = {"update": timed(lambda: trainer.forward_backward(mine, objective))}
    trainer.optim_step(step)
    times["reference"] = timed(lambda: trainer.score(mine))
    return times


def timed(work: Callable[[], object]) -> tuple[float, float]:
    start_s, own_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start_s, time.process_time() - own_s


if __name__ == "__main__":
    main()
