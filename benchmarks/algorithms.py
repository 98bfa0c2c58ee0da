"""What each recipe learns on the multiplication table: held-out accuracy before and after.

    .venv/bin/python benchmarks/algorithms.py rloo gspo cispo

Every recipe trains the embedded model for ``--steps`` steps of 96 responses. Runs are resumed
if they exist. ``--picture FILE.svg`` draws the reward of all runs found in ``--dir``. Ends with 1
if a recipe ends below ``--at-least``.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

RFT_ROUNDS = 2


def run(name: str, args: argparse.Namespace) -> None:
    stage = "rft" if name == "rft" else "rl"
    steps = RFT_ROUNDS if name == "rft" else args.steps
    command = [sys.executable, "-m", "rlpost.cli.main", stage, f"experiment={name}"]
    options = [f"run.dir={args.dir}", f"trainer.steps={steps}", "evaluation.every=0"]
    options += ["evaluation.samples=7", "checkpoint.every=0", "tracking.wandb=disabled"]
    subprocess.run([*command, *options, *args.overrides], check=True)


def rows_of(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def scores_of(rows: list[dict]) -> list[float]:
    """Held-out accuracy, evaluation by evaluation."""
    return [row[k] for row in rows for k in row if "/acc/mean@" in k]


def summary(run_dir: Path) -> str:
    rows = rows_of(run_dir)
    scores = scores_of(rows)
    minutes = rows[-1]["time_s"] / 60
    explained = [r["critic/vf_explained_var"] for r in rows if "critic/vf_explained_var" in r]
    critic = f", explained variance {max(explained):.2f}" if explained else ""
    return f"{run_dir.name:14} {scores[0]:.3f} -> {scores[-1]:.3f}  {minutes:.1f} min{critic}"


def draw(directory: Path, target: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for run_dir in sorted(path.parent for path in directory.glob("*/metrics.jsonl")):
        key = "verifier/numeric/mean"  # right answers, also where a reward model pays
        points = [(row["step"], row[key]) for row in rows_of(run_dir) if key in row]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=run_dir.name)
    axes.set(xlabel="step (96 responses; rft: 384)", ylabel="right answers on training prompts")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(ncols=2)
    figure.savefig(target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--dir", type=Path, default=Path("runs/algorithms"))
    parser.add_argument("--at-least", type=float, default=0.0, help="held-out accuracy")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--overrides", nargs="*", default=[], help="hydra overrides of every run")
    args = parser.parse_args()
    for name in args.recipes:
        run(name, args)
        print(summary(args.dir / name), flush=True)
    if args.picture:
        draw(args.dir, args.picture)
    last = [scores_of(rows_of(args.dir / name))[-1] for name in args.recipes]
    return int(min(last, default=1.0) < args.at_least)


if __name__ == "__main__":
    sys.exit(main())
