"""What soups and a negated task vector do to the embedded model, measured on held-out sums.

    .venv/bin/python benchmarks/soups.py
    .venv/bin/python benchmarks/soups.py --model DIR --steps 2 --items 8  # to see whether it runs

Three runs of LoRA learn one task, sums of a number of two and one of up to three digits, from the
same rows with other seeds and learning rates, and are merged into the base.
`merge.method=greedy_soup` chooses among them by one set of sums, and what it made, the mean of all
three and the member that was best answer another set, which nothing was chosen by. Then a member's
task vector is taken away from the base, which answers the same sums and the `general` suite. All
differences are paired, with intervals of 95 %. Runs lie in ``--dir``; what is complete there is not
repeated.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from rlpost.evaluation.answer import Answer
from rlpost.evaluation.comparison import ByItem, compare
from rlpost.evaluation.intervals import estimate_mean

BASE = "smollm2-135m-instruct"
MEMBERS = {"a": (0, 4e-4), "b": (1, 2e-4), "c": (2, 8e-4)}  # seed, learning rate
NEGATIONS = (-1.0,)
JUDGED = ("verifier=math", "max_tokens=64")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path("runs/soups"))
    parser.add_argument("--model", default=BASE, help="where all runs start")
    parser.add_argument("--steps", type=int, default=40, help="of each run, of 8 sums")
    parser.add_argument("--items", type=int, default=600, help="sums that nothing was chosen by")
    parser.add_argument("--overrides", nargs="*", default=[], help="options of training")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    trained, choosing, heldout = (args.dir / f"{n}.jsonl" for n in ("train", "choose", "heldout"))
    rows = sums(1280 + 300 + args.items)
    write_rows(trained, rows[:1280])
    write_rows(choosing, rows[1280:1580])
    write_rows(heldout, rows[1580:])
    for name, (seed, rate) in MEMBERS.items():
        rlpost(
            args, f"{name}-adapter", "sft", f"model.path={args.model}", f"data.train={trained}",
            "data.train_on=last", "adapter=lora", "examples_per_step=8", f"seed={seed}",
            f"trainer.steps={args.steps}", f"trainer.lr={rate}", *args.overrides,
        )  # fmt: skip
        rlpost(args, name, "merge", f"adapter={args.dir / name}-adapter", "merge.drift_prompts=4")
    models = f"merge.models=[{','.join(str(args.dir / name) for name in MEMBERS)}]"
    asked = ",".join(f"'{each}'" for each in (f"data.heldout={choosing}", *JUDGED))
    rlpost(args, "uniform", "merge", "merge.method=linear", models, f"model.path={args.model}")
    rlpost(
        args, "greedy", "merge", "merge.method=greedy_soup", models, f"model.path={args.model}",
        f"merge.evaluate=[{asked}]",
    )  # fmt: skip
    soups(args, heldout)
    negations(args, heldout)
    return 0


def soups(args: argparse.Namespace, heldout: Path) -> None:
    """Print the held-out scores of members and soups, and the differences from the best member."""
    record = json.loads((args.dir / "greedy" / "merge.json").read_text())
    alone = {Path(t["models"][0]).name: t["score"] for t in record["trials"] if not t["models"][1:]}
    for trial in record["trials"]:
        names = " + ".join(Path(each).name for each in trial["models"])
        print(f"chosen by {trial['score']:.4f}: {names}{'' if trial['kept'] else ' (left out)'}")
    best = max(alone, key=lambda name: alone[name])
    asked = (f"data.heldout={heldout}", *JUDGED)
    found = {
        name: answers(args, name, str(args.dir / name), *asked)["heldout"]
        for name in (best, "uniform", "greedy")
    }
    for name, rewards in found.items():
        print(f"held out, {name}: {interval(rewards)}")
    for soup in ("uniform", "greedy"):
        print(f"{soup} minus {best}: {paired(found[best], found[soup])}", flush=True)


def negations(args: argparse.Namespace, heldout: Path) -> None:
    """Print what the base answers without a member's task vector."""
    asked = ("suites=[general]", f"data.heldout={heldout}", *JUDGED)
    before = answers(args, "base", args.model, *asked)
    for what, rewards in before.items():
        print(f"base, {what}: {interval(rewards)}")
    for weight in NEGATIONS:
        name = f"minus{-weight:g}"
        rlpost(
            args, name, "merge", "merge.method=task_arithmetic", f"model.path={args.model}",
            f"merge.models=[{args.dir / 'a'}]", f"merge.weights=[{weight}]",
        )  # fmt: skip
        after = answers(args, name, str(args.dir / name), *asked)
        for what, rewards in after.items():
            print(
                f"base {weight:g} x a, {what}: {interval(rewards)}; minus base: "
                f"{paired(before[what], rewards)}"
            )


def sums(count: int) -> list[dict[str, str]]:
    """Return different sums of two numbers, with an answer in words to learn."""
    rng = random.Random(0)
    pairs = {tuple(sorted((rng.randint(10, 99), rng.randint(10, 999)))) for _ in range(2 * count)}
    chosen = rng.sample(sorted(pairs), count)
    return [
        {
            "prompt": f"What is {a} + {b}?",
            "answer": str(a + b),
            "completion": f"{a} + {b} = {a + b}",
        }
        for a, b in chosen
    ]


def answers(
    args: argparse.Namespace, name: str, model: str, *options: str
) -> dict[str, dict[str, list[float | None]]]:
    """Evaluate a model and return its rewards by data set and item."""
    run = f"{name}-answers"
    rlpost(args, run, "evaluate", f"model.path={resolved(model)}", *options)
    found: dict[str, dict[str, list[float | None]]] = {}
    for line in (args.dir / run / "evaluation.jsonl").read_text().splitlines():
        answer = Answer.from_json(line)
        items = found.setdefault(answer.dataset, {})
        items.setdefault(answer.uid, []).append(answer.reward)
    return found


def resolved(model: str) -> str:
    export = Path(model) / "export"
    return str(export) if export.is_dir() else model


def interval(rewards: ByItem) -> str:
    found = estimate_mean(list(rewards.values()))
    return f"{found.mean:.4f} [{found.low:.4f}, {found.high:.4f}] of {len(rewards)}"


def paired(before: ByItem, after: ByItem) -> str:
    found = compare(before, after)
    assert found is not None
    return f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}], p = {found.p_value:.2g}"


def rlpost(args: argparse.Namespace, name: str, *words: str) -> None:
    """Run a command as the run ``name``, unless it is complete."""
    done = args.dir / f"{name}.done"
    if done.exists():
        return
    start = time.perf_counter()
    command = [sys.executable, "-m", "rlpost.cli.main", *words]
    subprocess.run([*command, f"run.dir={args.dir}", f"run.name={name}"], check=True)
    done.touch()
    print(f"{name}: rlpost {words[0]}, {(time.perf_counter() - start) / 60:.1f} min", flush=True)


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
