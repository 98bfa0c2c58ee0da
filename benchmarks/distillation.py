"""How much of a teacher's lead a student recovers: on-policy and traces, at equal tokens.

    .venv/bin/python benchmarks/distillation.py
    .venv/bin/python benchmarks/distillation.py --student DIR --teacher EXPORT --steps 2 \\
        --overrides trainer.dtype=float32 trainer.lr=1e-4

The teacher is what `rlpost rl experiment=quickstart` makes of the embedded model in minutes; the
student is the embedded model. On-policy it learns by reverse KL at the tokens that it samples.
Traces are sampled from the teacher on the training prompts, filtered by the verifier and learned by
`rlpost sft`, for as many trained tokens. All are scored on the held-out questions, with the
interval of the paired difference from the student's start. Runs lie in ``--dir`` and are continued
if they exist. ``--overrides`` are options of every run that trains.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rlpost.data.rows import SourceRequest, Split
from rlpost.data.sources.arithmetic import read_arithmetic

STUDENT = "smollm2-135m-instruct"
QUESTIONS = 29
HEADER = ("student", "trained tokens", "held-out", "gained", "recovered", "training minutes")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--student", default=STUDENT, help="where all students start")
    parser.add_argument("--teacher", type=Path, help="an export; default: trained first")
    parser.add_argument("--steps", type=int, default=20, help="on-policy")
    parser.add_argument("--samples", type=int, default=14, help="answers per held-out question")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="held out, at most")
    parser.add_argument("--min-reward", type=float, default=1.0, help="of a trace that is learned")
    parser.add_argument("--overrides", nargs="*", default=[], metavar="OPTION=VALUE")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    common = (f"run.dir={args.dir}", "tracking.wandb=disabled")
    trains = (f"model.path={args.student}", *common, *args.overrides)
    if args.teacher is None:
        rlpost("rl", "experiment=quickstart", "run.name=teacher", *trains)
    teacher = args.teacher or args.dir / "teacher" / "export"
    minutes = {
        "on_policy": rlpost(
            *("distill", "experiment=distill_on_policy", "run.name=on_policy"),
            *(f"teacher.path={teacher}", f"trainer.steps={args.steps}", *trains),
        )
    }
    tokens = {"on_policy": trained_tokens(args.dir / "on_policy")}
    minutes["traces"] = learn_traces(args, teacher, common, trains, tokens=tokens["on_policy"])
    tokens["traces"] = trained_tokens(args.dir / "traces")
    lead = scores(args, "teacher", teacher, common)
    rows = [("teacher", "", *shown(lead), "", "")]
    for name in ("on_policy", "traces"):
        found = scores(args, name, args.dir / name / "export", common)
        gap = lead["difference/mean"]
        share = f"{found['difference/mean'] / gap:.2f}" if gap else "no lead"
        rows.append((name, f"{tokens[name]:,.0f}", *shown(found), share, f"{minutes[name]:.1f}"))
    for row in (HEADER, ["---"] * len(HEADER), *rows):
        print(f"| {' | '.join(row)} |")
    return 0


def learn_traces(
    args: argparse.Namespace, teacher: Path, common: Any, trains: Any, *, tokens: float
) -> float:
    """Sample traces, keep what is right and learn it; returns the minutes of both."""
    prompts, kept = args.dir / "prompts.jsonl", args.dir / "sampled" / "dataset" / "kept.jsonl"
    request = SourceRequest(
        name="arithmetic", locator="", split=Split.TRAIN, size=1000, seed=0, field="data.train"
    )
    rows = [dict(row.columns) for row in read_arithmetic(request)]
    prompts.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    sampled = rlpost(
        *("evaluate", "run.name=sampled", f"model.path={teacher}", f"data.heldout={prompts}"),
        *("verifier=numeric", "samples=8", "temperature=1", "max_tokens=16"),
        *("generator.max_model_len=96", f"selection.min_reward={args.min_reward}", *common),
    )
    lengths = [each["num_tokens"] for each in lines_of(args.dir / "sampled" / "evaluation.jsonl")]
    rows_of_step = 64  # as many as the on-policy student has responses
    steps = max(1, round(tokens / (rows_of_step * sum(lengths) / len(lengths))))
    learned = rlpost(
        *("sft", "run.name=traces", f"data.train={kept}", f"examples_per_step={rows_of_step}"),
        *(f"trainer.steps={steps}", "trainer.lr=2e-5", *trains),
    )
    return sampled + learned


def scores(args: argparse.Namespace, name: str, model: Path, common: Any) -> dict[str, float]:
    """Score a model and the student's start on the held-out questions, under the same seeds."""
    run = f"{name}_scores"
    rlpost(
        *("evaluate", f"run.name={run}", f"model.path={model}", f"baseline.path={args.student}"),
        *("data.heldout=arithmetic", f"data.heldout_size={args.questions}", "verifier=numeric"),
        *(f"samples={args.samples}", "temperature=1", "max_tokens=16"),
        *("generator.max_model_len=96", *common),
    )
    found = lines_of(args.dir / run / "metrics.jsonl")[-1]
    return {k.removeprefix("val-core/arithmetic/"): v for k, v in found.items()}


def shown(found: dict[str, float]) -> tuple[str, str]:
    """Return the score, and the difference from the start, each with its interval."""
    score = next(k for k in found if k.startswith("acc/mean@") and k.count("/") == 1)
    return (
        f"{found[score]:.3f} [{found[f'{score}/low']:.3f}, {found[f'{score}/high']:.3f}]",
        f"{found['difference/mean']:+.3f} [{found['difference/low']:+.3f}, "
        f"{found['difference/high']:+.3f}]",
    )


def trained_tokens(run: Path) -> float:
    spent = json.loads((run / "cost.json").read_text())["spent"]
    return float(spent["tokens/trained"])


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rlpost(*words: str) -> float:
    """Run a command and return how many minutes it took."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "rlpost.cli.main", *words], check=True)
    return (time.perf_counter() - start) / 60


if __name__ == "__main__":
    sys.exit(main())
