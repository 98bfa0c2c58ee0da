"""Processor time of the host for a micro-batch, at each ZeRO stage and in a plain torch loop.

    .venv/bin/python benchmarks/host_time.py

A random model of 16 layers, so narrow that arithmetic is a small part of the time: what is left is
what a GPU would wait for. One rank, one thread, bfloat16, the same packed micro-batches. The least
of some repetitions is taken, which other processes on the machine change the least.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import torch
from compared_models import lone_trainer
from trainer_throughput import OBJECTIVE, Mix, Step, bare_side, build_llama
from transformers.utils.logging import disable_progress_bar

from rlpost.training.packing.batch import MicroBatch
from rlpost.training.settings import DType, TrainerConfig

SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
MIX = Mix(prompts=12, samples=2, prompt_tokens=20, response_tokens=(10, 20))


@contextmanager
def trainer_side(path: str, cfg: TrainerConfig, batches: list[MicroBatch]) -> Iterator[Step]:
    steps = count(1)
    with lone_trainer(path, cfg) as trainer:

        def step() -> None:
            trainer.optim_step(next(steps))
            trainer.forward_backward(batches, OBJECTIVE)

        trainer.forward_backward(batches, OBJECTIVE)
        yield step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/rlpost-models"))
    args = parser.parse_args()
    disable_progress_bar()
    torch.set_num_threads(1)
    path = str(build_llama(args.scratch / "narrow_16", **SHAPE))
    budget = 64
    batches = MIX.batches(SHAPE["vocab_size"], budget=budget)
    common = {"dtype": DType.bfloat16, "threads": 1, "max_tokens_per_micro_batch": budget}
    sides = {"bare torch": (bare_side, TrainerConfig(**common))}
    for stage in args.stages:
        sides[f"stage {stage}"] = (trainer_side, TrainerConfig(zero_stage=stage, **common))
    print(f"{len(batches)} micro-batches\n| side | ms a micro-batch, update included |\n|---|---|")
    for name, (side, cfg) in sides.items():
        with side(path, cfg, batches) as step:
            step()
            spent = []
            for _ in range(args.repetitions):
                start = time.process_time()
                step()
                spent.append(time.process_time() - start)
        print(f"| {name} | {1e3 * min(spent) / len(batches):.1f} |", flush=True)


if __name__ == "__main__":
    main()
