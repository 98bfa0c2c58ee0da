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

from rlpost.evaluation.comparison import compare
from rlpost.evaluation.intervals import estimate_mean
from rlpost.models.embedded import NAME as EMBEDDED_MODEL

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
        rows = online(args)
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


def online(args: argparse.Namespace) -> list[list[str]]:
    """Learn products from pairs of own answers: sampled as it learns, or all before it learns.

    Both learn as many pairs, of as many samples: offline, the first ones of a policy that stands
    still.
    """
    minutes = rlpost(
        *("preference", "experiment=online_dpo", "evaluation.every=14"),
        *(f"run.dir={args.dir}", "run.name=online", *args.overrides),
    )
    groups = num_groups(args.dir / "online")
    steps = -(-groups // 12) + 1
    rlpost(
        *("rl", "experiment=quickstart", "trainer.lr=1e-30", f"trainer.steps={steps}"),
        *("rollout.prompts_per_step=12", "rollout.group_size=8", "evaluation.every=0"),
        *(f"run.dir={args.dir}", "run.name=still", *args.overrides),
    )
    pairs = args.dir / "pairs.jsonl"
    pairs.write_text("".join(pairs_of(args.dir / "still", groups=groups)))
    offline_minutes = rlpost(
        *("preference", "loss=dpo", f"data.train={pairs}", "data.heldout_size=0"),
        *("examples_per_step=12", "trainer.steps=14", "trainer.lr=1e-5", "evaluation.every=0"),
        *(f"run.dir={args.dir}", "run.name=offline"),
    )
    print(f"{groups} groups of 8 samples, {len(pairs.read_text().splitlines())} pairs offline")
    return [
        ["online", "", *products(args.dir / "online", args.dir / "offline"), f"{minutes:.1f}"],
        ["offline", "", *products(args.dir / "offline", None), f"{offline_minutes:.1f}"],
    ]


def num_groups(run: Path) -> int:
    """How many groups a run consumed, those without a best answer included."""
    latest = (run / "checkpoints" / "latest").read_text().strip()
    ledger = json.loads((run / "checkpoints" / latest / "driver.json").read_text())["ledger"]
    return ledger["consumed"] + sum(ledger["dropped"].values())


def pairs_of(run: Path, *, groups: int) -> Iterator[str]:
    """The best and the worst answer of each of the first groups, where they differ."""
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((run / "rollouts").glob("step_*.jsonl")):
        for row in lines_of(path):
            by_prompt.setdefault(row["uid"], []).append(row)
    for rows in list(by_prompt.values())[:groups]:
        worst, *_, best = sorted(rows, key=lambda row: row["reward"])
        if worst["reward"] < best["reward"]:
            pair = {"prompt": best["prompt"], "chosen": best["response"]}
            yield json.dumps(pair | {"rejected": worst["response"]}) + "\n"


def products(run: Path, other: Path | None) -> list[str]:
    """Score held-out products, 14 samples of each of 29, against another run's model."""
    scores = run.with_name(f"{run.name}-scores")
    baseline = EMBEDDED_MODEL if other is None else str(other / "export")
    rlpost(
        *("evaluate", f"model.path={run / 'export'}", f"baseline.path={baseline}"),
        *("data.heldout=arithmetic", "verifier=numeric", "samples=14", "temperature=1"),
        *("max_tokens=16", f"run.dir={run.parent}", f"run.name={scores.name}"),
    )
    found = next(lines_of(scores / "metrics.jsonl"))
    return [
        f"{found[f'{at}/mean']:.3f} [{found[f'{at}/low']:.3f}, {found[f'{at}/high']:.3f}]"
        if f"{at}/mean" in found
        else ""
        for at in ("val-core/arithmetic/difference",)
    ] + [json.dumps({k: round(v, 4) for k, v in found.items() if "arithmetic" in k})]


def behaviour(run: Path) -> list[str]:
    """Sample answers to 300 held-out prompts, of the trained and of the embedded model."""
    start = answers_of(run.with_name("start-scores"), EMBEDDED_MODEL)
    trained = answers_of(run.with_name(f"{run.name}-scores"), str(run / "export"))
    difference = compare(rewards_of(start), rewards_of(trained))
    assert difference is not None
    intervals = [estimate_mean(list(rewards_of(each).values())) for each in (start, trained)]
    before, after, moved = (
        f"{mean:.3f} [{low:.3f}, {high:.3f}]"
        for mean, low, high in (
            *((each.mean, each.low, each.high) for each in intervals if each is not None),
            (difference.difference, difference.low, difference.high),
        )
    )
    lengths = [fmean(each["num_tokens"] for each in answers) for answers in (start, trained)]
    return [before, after, moved, f"{lengths[0]:.1f} -> {lengths[1]:.1f}"]


def answers_of(scores: Path, model: str) -> list[dict[str, Any]]:
    """Return judged answers of a model; they are sampled once, with the same seeds for all."""
    rlpost(
        *("evaluate", f"model.path={model}", "verifier=format", "generator.threads=1"),
        *("data.heldout=pairs:lowercase", "data.heldout_size=300"),
        *("temperature=1", "max_tokens=64", f"run.dir={scores.parent}", f"run.name={scores.name}"),
    )
    return list(lines_of(scores / "evaluation.jsonl"))


def rewards_of(answers: list[dict[str, Any]]) -> dict[str, list[float]]:
    return {each["uid"]: [each["reward"]] for each in answers}


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
