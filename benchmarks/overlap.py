"""The gain and cost of asynchronous generation, compared with an on-policy run.

    .venv/bin/python benchmarks/overlap.py DIR --seeds 0 --steps 10

Three runs a seed of the multiplication task: on-policy with all cores for each side in turn
(``sync``), on-policy with one thread a side (``alone``: how long each side takes by itself),
and ``experiment=async_grpo``. Overlap efficiency is the longer side of ``alone`` over the
measured step of ``async``: 1 means that the shorter side is hidden completely.
``--runs corrected4 naive4`` are runs that lag by up to four steps, with and without correction.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

THREADS = ("generator.threads=1", "trainer.threads=1")
# The anchor is the policy being trained: its ratio says nothing about the sampler's lag.
FAR = ("experiment=async_grpo", "rl.max_staleness=4", "algorithm.anchor=proximal")
RUNS = {
    "sync": ("experiment=quickstart",),
    "alone": ("experiment=quickstart", *THREADS),
    "async": ("experiment=async_grpo",),
    "corrected4": (*FAR, "algorithm/corrections=[tis]"),
    "naive4": FAR,
}


def train(name: str, seed: int, args: argparse.Namespace) -> list[dict]:
    """Run, or go on with, one of ``RUNS``; returns its metrics, a row a step."""
    run = f"{name}-{seed}"
    options = [f"run.dir={args.place}", f"run.name={run}", f"seed={seed}"]
    options += [f"trainer.steps={args.steps}", f"evaluation.every={args.evaluate_every}"]
    options += ["evaluation.samples=14"]
    options += ["checkpoint.every=0", "tracking.wandb=disabled", *args.overrides]
    command = [sys.executable, "-m", "rlpost.cli.main", "rl", *RUNS[name], *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    lines = (args.place / run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def accuracies(rows: list[dict]) -> list[float]:
    return [row[key] for row in rows for key in row if "/acc/mean@" in key]


def per_step(rows: list[dict], *names: str) -> float:
    """Mean seconds a step of ``timing_s/<names>`` together, the first step left out."""
    return mean(sum(row.get(f"timing_s/{name}", 0.0) for name in names) for row in rows[2:])


def report(name: str, seed: int, rows: list[dict]) -> None:
    held_out = " -> ".join(f"{accuracy:.3f}" for accuracy in accuracies(rows))
    curve = " ".join(f"{row['critic/score/mean']:.2f}" for row in rows[1:])
    lag = max(row.get("training/off_policy/trajectory_staleness/max", 0) for row in rows)
    print(
        f"{name:10} seed {seed}: {held_out}, {per_step(rows, 'step'):.1f} s a step, "
        f"{rows[-1]['time_s'] / 60:.1f} min, largest lag {lag:.0f}"
    )
    print(f"{'':10} reward {curve}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("place", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--evaluate-every", type=int, default=0, help="0: first and last alone")
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=["sync", "alone", "async"])
    parser.add_argument("--overrides", nargs="*", default=[])
    args = parser.parse_args()
    for seed in args.seeds:
        rows = {name: train(name, seed, args) for name in args.runs}
        for name in args.runs:
            report(name, seed, rows[name])
        if {"alone", "async"} <= rows.keys():
            generation = per_step(rows["alone"], "gen", "reward")
            training = per_step(rows["alone"], "update_actor", "update_weights")
            measured = per_step(rows["async"], "step")
            print(
                f"           alone: generation {generation:.1f} s, training and push "
                f"{training:.1f} s; together {measured:.1f} s; "
                f"overlap efficiency {max(generation, training) / measured:.2f}"
            )


if __name__ == "__main__":
    main()
