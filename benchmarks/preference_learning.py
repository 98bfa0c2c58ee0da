"""What reward models and preference losses teach the embedded model, measured on held-out items.

    .venv/bin/python benchmarks/preference_learning.py reward  # which answer agrees with the prompt
    .venv/bin/python benchmarks/preference_learning.py relations  # the same, by relations alone
    .venv/bin/python benchmarks/preference_learning.py steps   # which steps of a solution are right
    .venv/bin/python benchmarks/preference_learning.py dpo     # a behaviour, by any of the losses
    .venv/bin/python benchmarks/preference_learning.py online  # the same, from sampled pairs

Each trains one model (``online`` another one by DPO on as many pairs of the data set) and prints a
row of a table for each: held-out accuracy before and after and, of a behaviour, how often sampled
answers show it and how long they are, with the interval of the paired difference. Runs lie in
``--dir`` and are continued if they exist.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

# Grades sampled answers, of which hardly any is in small letters alone before training.
GRADE = """
def small(prompts, completions, **columns):
    return [sum(w == w.lower() for w in c.split()) / max(1, len(c.split())) for c in completions]
"""
REWARD_MODELS = {
    "reward": ("loss=bradley_terry", "data.train=pairs:consistency"),
    "relations": ("loss=bradley_terry", "data.train=pairs:relations"),
    "steps": ("loss=step", "data.train=steps:solutions"),
}
LOSSES = ("dpo", "ipo", "kto", "orpo", "simpo", "cpo", "cdpo", "robust", "hinge", "rpo")
SIZES = ("data.size=640", "data.heldout_size=300", "examples_per_step=16")
HEADER = (
    "run",
    "held-out accuracy",
    "shows it, before",
    "after",
    "difference",
    "tokens",
    "minutes",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*REWARD_MODELS, *LOSSES, "online"])
    parser.add_argument("--dir", type=Path, default=Path("runs/preference"))
    parser.add_argument("--overrides", nargs="*", default=[], help="hydra overrides of training")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    if args.what in REWARD_MODELS:
        rows = [reward_model(args)]
    elif args.what == "online":
        rows = [online(args), offline(args, "dpo", name="offline")]
    else:
        rows = [offline(args, args.what, name=args.what)]
    for row in (HEADER, ["---"] * len(HEADER), *rows):
        print(f"| {' | '.join(row)} |")
    return 0


def reward_model(args: argparse.Namespace) -> list[str]:
    """Learn to score answers, or steps."""
    run = args.dir / args.what
    minutes = rlpost(
        *("reward", *REWARD_MODELS[args.what], "data.size=960", "data.heldout_size=320"),
        *("examples_per_step=16", "trainer.steps=60", "trainer.lr=5e-5", "evaluation.every=20"),
        *(f"run.dir={args.dir}", f"run.name={run.name}", *args.overrides),
    )
    return [run.name, accuracies(run), "", "", "", "", f"{minutes:.1f}"]


def offline(args: argparse.Namespace, loss: str, *, name: str) -> list[str]:
    """Learn a behaviour from pairs, or from judged answers."""
    run, rows = args.dir / name, "judged" if loss == "kto" else "pairs"
    minutes = rlpost(
        *("preference", f"loss={loss}", f"data.train={rows}:lowercase", *SIZES),
        *("evaluation.every=20", "trainer.steps=40", "trainer.lr=1e-5"),
        *(f"run.dir={args.dir}", f"run.name={run.name}", *args.overrides),
    )
    return [name, accuracies(run), *behaviour(run), f"{minutes:.1f}"]


def online(args: argparse.Namespace) -> list[str]:
    """Learn it from answers that the model samples, as many pairs a step as offline."""
    run, judge = args.dir / "online", args.dir / "small.py"
    judge.write_text(GRADE)
    minutes = rlpost(
        *("preference", "loss=dpo", "data.online=true", "data.train=pairs:lowercase", *SIZES),
        *("verifier=function", f"verifier.path={judge}:small"),
        *("rollout.group_size=4", "rollout.max_tokens=32"),
        *("evaluation.every=40", "trainer.steps=40", "trainer.lr=1e-5"),
        *(f"run.dir={args.dir}", f"run.name={run.name}", *args.overrides),
    )
    return [run.name, "", *behaviour(run), f"{minutes:.1f}"]


def behaviour(run: Path) -> list[str]:
    """Sample answers to 300 held-out prompts, of the trained and of the embedded model."""
    scores = run.with_name(f"{run.name}-scores")
    rlpost(
        *("evaluate", f"model.path={run / 'export'}", "baseline.path=smollm2-135m-instruct"),
        *("data.heldout=pairs:lowercase", "data.heldout_size=300", "verifier=format"),
        *("temperature=1", "max_tokens=64", f"run.dir={run.parent}", f"run.name={scores.name}"),
    )
    found = next(lines_of(scores / "metrics.jsonl"))
    before, after, difference = (
        f"{found[name]:.3f} [{found[low]:.3f}, {found[high]:.3f}]"
        for name, low, high in (
            [f"{prefix}val-core/lowercase/{middle}/{end}" for end in ends]
            for prefix, middle, ends in (
                ("baseline/", "acc", ("mean@1", "mean@1/low", "mean@1/high")),
                ("", "acc", ("mean@1", "mean@1/low", "mean@1/high")),
                ("", "difference", ("mean", "low", "high")),
            )
        )
    )
    answers = list(lines_of(scores / "evaluation.jsonl"))
    lengths = [
        fmean(each["num_tokens"] for each in answers if each["model"] == model)
        for model in ("baseline", "model")
    ]
    return [before, after, difference, f"{lengths[0]:.1f} -> {lengths[1]:.1f}"]


def accuracies(run: Path) -> str:
    """Return the held-out accuracy over all sources, at every evaluation."""
    measured = re.compile(r"\w+/heldout_(step_)?accuracy")
    rows = lines_of(run / "metrics.jsonl")
    found = [v for row in rows for k, v in row.items() if measured.fullmatch(k)]
    return " -> ".join(f"{value:.3f}" for value in found)


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, path.read_text().splitlines())


def rlpost(*words: str) -> float:
    """Run a command and return how many minutes it took."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "rlpost.cli.main", *words], check=True)
    return (time.perf_counter() - start) / 60


if __name__ == "__main__":
    sys.exit(main())
