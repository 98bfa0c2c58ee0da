"""Every kind of adapter through every stage by command, on a tiny model, and out again.

Trains each kind with `rlpost sft`, `rlpost preference` and `rlpost rl` (GRPO, a function verifier),
merges each run's adapter with `rlpost merge`, loads the adapter in plain peft, and compares the two
in float32. Supervised runs are made once more, killed after a step and resumed: their exports must
have the same bits. Prints a table; ends with 1 if anything failed.

    python benchmarks/adapter_kinds.py                      # all, about half an hour
    python benchmarks/adapter_kinds.py vera --stages rl     # some
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import cli_runs  # noqa: E402
from peft_adapters import base_of  # noqa: E402
from supervised_runs import EVERY_RUN, write_rows  # noqa: E402

from rlpost.models.tiny import build_tiny_llama  # noqa: E402
from rlpost.training.adapters import adapters  # noqa: E402

# What differs from a kind's own options: they are for larger models and longer runs.
SMALL: dict[str, tuple[str, ...]] = {
    "adalora": ("adapter.rank=4", "adapter.initial_rank=6", "adapter.every=1"),
    "vera": ("adapter.rank=32",),
}
STAGES = ("sft", "preference", "rl")
STEPS = 3
IDS = [7, 40, 80, 120, 33, 90, 61, 200, 5, 17]
COLUMNS = (
    *("kind", "stage", "changed", "merged", "generators get", "bytes"),
    *("probe", "merge error", "resumed", "s"),
)


class Failed(Exception):
    """A command ended badly, or a comparison did."""


@dataclass(kw_only=True)
class Row:
    """One kind in one stage; differences are the largest of log-probs, in nats."""

    kind: str
    stage: str
    changed: float | None = None  # adapter in plain peft against its base
    merged: float | None = None  # `rlpost merge` against the adapter in plain peft
    served: str = ""
    size_bytes: float | None = None
    probe: float | None = None  # generator against trainer, the worst push
    merge_error: float | None = None
    resumed: str = ""
    seconds: float = 0.0
    failed: str = ""

    def __str__(self) -> str:
        if self.failed:
            return f"| `{self.kind}` | {self.stage} | FAILED: {self.failed} | | | | | | | |"
        cells = (
            *(f"`{self.kind}`", self.stage, _number(self.changed), _number(self.merged)),
            *(self.served, "" if self.size_bytes is None else f"{self.size_bytes:.0f}"),
            *(_number(self.probe), _number(self.merge_error), self.resumed, f"{self.seconds:.0f}"),
        )
        return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def write_data(place: Path) -> None:
    words = ["red", "blue", "green", "seven", "north", "salt", "iron", "moon"]
    asked = [f"Name a word like {word}" for word in words]
    write_rows(
        place / "sft.jsonl",
        (
            {
                "messages": [
                    {"role": "user", "content": prompt},
                    {"role": "assistant", "content": f"{word} and {word}"},
                ]
            }
            for prompt, word in zip(asked, words, strict=True)
        ),
    )
    write_rows(
        place / "preference.jsonl",
        (
            {"prompt": prompt, "chosen": f"{word} again", "rejected": "no"}
            for prompt, word in zip(asked, words, strict=True)
        ),
    )
    (place / "reward.py").write_text(cli_runs.REWARD)


def command(kind: str, stage: str, model: Path, place: Path, name: str) -> list[str]:
    own = [f"adapter={kind}", *SMALL.get(kind, ("adapter.rank=4",)), f"trainer.steps={STEPS}"]
    own += ["trainer.lr=1e-2", "checkpoint.every=1"]
    if stage == "rl":
        quiet = ["evaluation.every=0", "tracking.wandb=disabled", "tracking.console=quiet"]
        return cli_runs.command(place, model, name, *quiet, *own)
    return [
        *(sys.executable, "-m", "rlpost.cli.main", stage, f"run.name={name}"),
        *(f"model.path={model}", *EVERY_RUN, "data.workers=0", f"data.train={stage}.jsonl"),
        *("examples_per_step=2", "trainer.max_tokens_per_micro_batch=256", *own),
    ]


def called(line: list[str], place: Path) -> str:
    done = subprocess.run(line, cwd=place, capture_output=True, text=True, timeout=900)
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())[-400:]
        raise Failed(f"{line[3]} ended with {done.returncode}: {said}")
    return done.stdout


def killed_after_a_step(line: list[str], run: Path, place: Path) -> None:
    process = subprocess.Popen(
        line,
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        cli_runs.wait_for_step(run, 1, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@torch.no_grad()
def logprobs(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(torch.tensor([IDS])).logits[0].log_softmax(-1)
    return found


def compare(row: Row, model: Path, run: Path, place: Path) -> None:
    """Merge the run's adapter and fill in how far files, merge and base lie apart."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    name = f"{run.name}-merged"
    merge = [sys.executable, "-m", "rlpost.cli.main", "merge", f"adapter={run.name}"]
    called([*merge, f"run.name={name}"], place)
    base = base_of(model, row.kind)
    before = logprobs(base)
    adapted = logprobs(PeftModel.from_pretrained(base, run / "export"))
    whole = AutoModelForCausalLM.from_pretrained(
        place / "runs" / name / "export", dtype=torch.float32
    )
    row.changed = float((adapted - before).abs().max())
    row.merged = float((adapted - logprobs(whole)).abs().max())
    if not (row.changed > 1e-4 and row.merged < 1e-4):
        raise Failed(f"changed {row.changed:.1e}, merged differs by {row.merged:.1e}")


def read_pushes(row: Row, run: Path) -> None:
    pushes = [each for each in cli_runs.metrics(run) if "weights/version" in each]
    row.probe = max(each["weights/probe_logprob_diff_max"] for each in pushes)
    row.size_bytes = pushes[-1]["weights/bytes"]
    errors = [each["weights/merge_error"] for each in pushes if "weights/merge_error" in each]
    row.served, row.merge_error = ("merged", max(errors)) if errors else ("the adapter", None)


def played(kind: str, stage: str, model: Path, place: Path) -> Row:
    """Train, merge and compare; supervised stages also killed and resumed."""
    row, start = Row(kind=kind, stage=stage), time.perf_counter()
    run = place / "runs" / f"{kind}-{stage}"
    try:
        called(command(kind, stage, model, place, run.name), place)
        compare(row, model, run, place)
        if stage == "rl":
            read_pushes(row, run)
        else:
            other = run.with_name(f"{run.name}-again")
            line = command(kind, stage, model, place, other.name)
            killed_after_a_step(line, other, place)
            called(line, place)
            file = Path("export") / "adapter_model.safetensors"
            one, again = load_file(run / file), load_file(other / file)
            same = one.keys() == again.keys() and all(torch.equal(one[k], again[k]) for k in one)
            row.resumed = "same bits"
            if not same:
                raise Failed("the resumed run exports something else")
    except (Failed, AssertionError, OSError, subprocess.TimeoutExpired) as error:
        row.failed = f"{type(error).__name__}: {error}".replace("|", "/")
    row.seconds = time.perf_counter() - start
    return row


def main() -> None:
    every = [entry.name for entry in adapters if entry.name != "none"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(every)}")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    args = parser.parse_args()
    if unknown := sorted(set(args.kinds) - set(every)):
        parser.error(f"no kind is called {unknown[0]}; there are {', '.join(every)}")
    print(f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", sep="\n", flush=True)
    failed = False
    with tempfile.TemporaryDirectory(prefix="adapter-kinds-") as scratch:
        place = Path(scratch)
        write_data(place)
        model = build_tiny_llama(place / "model")
        for kind in args.kinds or every:
            for stage in args.stages:
                row = played(kind, stage, model, place)
                failed = failed or bool(row.failed)
                print(row, flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
