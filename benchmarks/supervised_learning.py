"""What the supervised stages teach the embedded model, measured on held-out items.

    .venv/bin/python benchmarks/supervised_learning.py format     # an answer's form
    .venv/bin/python benchmarks/supervised_learning.py reasoning  # worked examples of several steps
    .venv/bin/python benchmarks/supervised_learning.py domain     # text of a domain, with replay

Each trains one model (``domain`` two: without and with replay) and prints its scores before and
after with intervals. Runs lie in ``--dir`` and are continued if they exist.
"""

import argparse
import json
import pydoc_data.topics
import random
import re
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

# Judges the form alone: whether the sum is right does not count.
FORM = """
import re

def form(prompts, completions, **columns):
    return [float(bool(re.fullmatch(r"<answer>-?[0-9]+</answer>", c.strip()))) for c in completions]
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["format", "reasoning", "domain"])
    parser.add_argument("--dir", type=Path, default=Path("runs/supervised"))
    parser.add_argument("--overrides", nargs="*", default=[], help="hydra overrides of training")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    {"format": answer_form, "reasoning": reasoning, "domain": domain}[args.what](args)
    return 0


def answer_form(args: argparse.Namespace) -> None:
    """Learn to answer a sum with ``<answer>N</answer>`` and nothing else."""
    rows = sums(1100)
    train, heldout = args.dir / "sums.jsonl", args.dir / "sums_heldout.jsonl"
    write_rows(train, rows[:800])
    write_rows(heldout, rows[800:])
    judge = args.dir / "form.py"
    judge.write_text(FORM)
    run = args.dir / "format"
    rlpost(
        *("sft", f"data.train={train}", f"data.heldout={heldout}", "data.heldout_size=300"),
        *("data.train_on=last", "examples_per_step=16", "trainer.steps=40"),
        *("evaluation.every=20", f"run.dir={args.dir}", f"run.name={run.name}", *args.overrides),
    )
    show_losses(run, "sft")
    compare(
        run,
        f"data.heldout={heldout}",
        "verifier=function",
        f"verifier.path={judge}:form",
        "max_tokens=24",
    )


def sums(count: int) -> list[dict[str, str]]:
    """Return sums of two numbers with their answers in the form that is learned."""
    rng = random.Random(0)
    pairs = [(rng.randint(10, 999), rng.randint(10, 999)) for _ in range(count)]
    return [
        {
            "prompt": f"What is {a} + {b}?",
            "answer": str(a + b),
            "completion": f"<answer>{a + b}</answer>",
        }
        for a, b in pairs
    ]


def reasoning(args: argparse.Namespace) -> None:
    """Learn problems of several steps from worked examples; other parameters are held out."""
    run = args.dir / "reasoning"
    rlpost(
        *("sft", "data.train=suite:reasoning", "data.size=1200", "data.train_on=last"),
        *("examples_per_step=16", "trainer.epochs=1", "evaluation.every=40"),
        *(f"run.dir={args.dir}", f"run.name={run.name}", *args.overrides),
    )
    show_losses(run, "sft")
    compare(run, "suites=[reasoning,general]", "max_tokens=160")


def domain(args: argparse.Namespace) -> None:
    """Learn the reference of a programming language; a story in English is the general text."""
    reference = [part for text in pydoc_data.topics.topics.values() for part in sections(text)]
    story = (files("reasoning_gym") / "data" / "in_the_year_2889.txt").read_text()
    paths = {name: args.dir / f"{name}.jsonl" for name in ("reference", "story")}
    write_rows(paths["reference"], [{"text": text} for text in reference])
    write_rows(paths["story"], [{"text": text} for text in sections(story)])
    for name, weight in (("domain-alone", 0), ("domain-replay", 1)):
        rlpost(
            "pretrain",
            f"data.sources.reference.path={paths['reference']}",
            f"data.sources.story.path={paths['story']}",
            *("data.sources.reference.weight=3", f"data.sources.story.weight={weight}"),
            *("data.heldout_fraction=0.3", "data.window=512", "examples_per_step=16"),
            *("trainer.steps=24", "evaluation.every=12"),
            *(f"run.dir={args.dir}", f"run.name={name}", *args.overrides),
        )
        show_losses(args.dir / name, "pretrain")


def sections(text: str, *, characters: int = 1200) -> list[str]:
    """Cut a text at empty lines into parts of at least so many characters."""
    found, part = [], ""
    for paragraph in re.split(r"\n\s*\n", text):
        part = f"{part}\n\n{paragraph}" if part else paragraph
        if len(part) >= characters:
            found.append(part)
            part = ""
    return [*found, part] if part else found


def compare(run: Path, *overrides: str) -> None:
    """Evaluate the export against the embedded model on the same items."""
    rlpost(
        *("evaluate", f"model.path={run / 'export'}", "baseline.path=smollm2-135m-instruct"),
        *overrides,
        *(f"run.dir={run.parent}", f"run.name={run.name}-scores"),
    )


def show_losses(run: Path, stage: str) -> None:
    """Print the held-out losses of every evaluation, and how long the run took."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        measured = {k: v for k, v in row.items() if k.startswith(f"{stage}/heldout_")}
        if measured:
            words = ", ".join(f"{name.partition('/')[2]} {v:.4f}" for name, v in measured.items())
            print(f"step {row['step']}: {words}")
    print(f"{run.name}: {rows[-1]['time_s'] / 60:.1f} min to step {rows[-1]['step']}")


def rlpost(*words: str) -> None:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "rlpost.cli.main", *words], check=True)
    print(f"rlpost {words[0]}: {(time.perf_counter() - start) / 60:.1f} min with set-up")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
