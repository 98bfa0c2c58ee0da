"""A pipeline on the tiny model, killed at random moments: does it end with the same result?

    .venv/bin/python benchmarks/pipeline_chaos.py --kills 10

Runs the chain once undisturbed. Then once more, in which every process of it gets SIGKILL at random
moments, as when a machine loses power, and the same command is given again after each. Compares
weights, answers, data, gates and lineage byte by byte, and checks that no file of a part that was
done before a kill was written again after it.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

RUN = "runs/chaos"
MARK = "PIPELINE_CHAOS"  # in the environment of every process that is killed
KEPT = ("lineage.json", "gates.jsonl", "model.safetensors", "evaluation.jsonl")
CARDS = ("README.md", "rlpost.json")  # written again when more is known of the chain
SMALL = {"tracking.wandb": "disabled", "tracking.console": "quiet"}
TRAINS = {
    **SMALL, "trainer.dtype": "float32", "trainer.threads": 1, "data.workers": 0,
    "checkpoint.every": 1, "examples_per_step": 8, "trainer.lr": 5e-3, "trainer.steps": 8,
}  # fmt: skip
SCORE = '''
def even_share(prompts, completions, completion_ids, **columns):
    """Any response earns something, so groups differ."""
    return [sum(t % 2 == 0 for t in ids) / max(1, len(ids)) for ids in completion_ids]
'''
CHAIN = {
    "name": "chaos",
    "base": {"path": "tiny"},
    "common": {
        "sft": TRAINS,
        "preference": TRAINS,
        "evaluate": {**SMALL, "generator.dtype": "float32", "generator.threads": 1},
    },
    "gates": {"suites": {"t": {"data": "heldout.jsonl", "verifier": "exact", "max_tokens": 4}}},
    "stages": [
        {
            "id": "cold",
            "run": "sft",
            "data": {"train": "train.jsonl"},
            "gate": ["delta(t) >= -1"],
        },
        {
            "id": "traces",
            "run": "evaluate",
            "from": "cold",
            "output": "dataset",
            "data": {"heldout": "train.jsonl"},
            "set": {
                "verifier": "function",
                "verifier.path": "score.py:even_share",
                "samples": 2,
                "temperature": 1.0,
                "max_tokens": 48,
                "selection.best": 1,
            },
            "gate": ["rows >= 4"],
        },
        {
            "id": "again",
            "run": "sft",
            "from": "cold",
            "data": {"train": "stage:traces"},
            "gate": ["delta(t) >= -1"],
        },
        {
            "id": "preferred",
            "run": "preference",
            "from": "again",
            "data": {"train": "pairs.jsonl"},
            "gate": ["delta(t) >= -1"],
        },
    ],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, default=Path("runs/pipeline_chaos"))
    args = parser.parse_args()
    straight, killed = (args.dir / name for name in ("straight", "killed"))
    prepare(straight)
    prepare(killed)
    begin = time.monotonic()
    assert start(straight).wait() == 0
    straight_s = time.monotonic() - begin
    print(f"straight: {straight_s:.0f} s", flush=True)
    rng, moments, rewritten = random.Random(args.seed), [], []
    done: dict[str, int] = {}  # what must not be written again
    while True:
        longest = straight_s if len(moments) < args.kills else None
        code, after_s = run(killed, rng, longest)
        rewritten += [name for name, at in done.items() if written(killed / name) != at]
        if code == 0:
            break
        assert code == -signal.SIGKILL, f"the pipeline ended with exit code {code}"
        done = finished(killed)
        moments.append(after_s)
        print(f"kill {len(moments)} after {after_s:.1f} s in {going(killed)}", flush=True)
    found = [tree_of(place / RUN) for place in (straight, killed)]
    differing = sorted(
        n for n in found[0].keys() | found[1].keys() if found[0].get(n) != found[1].get(n)
    )
    report = {
        "kills": len(moments),
        "files": len(found[0]),
        "differing": differing,
        "done_before_a_kill": len({Path(name).parent for name in done}),
        "rewritten": sorted(set(rewritten)),
    }
    print(json.dumps(report))
    return 1 if differing or rewritten or len(moments) < args.kills else 0


def prepare(place: Path) -> None:
    """Write the model, the rows and the file of stages."""
    from rlpost.models.tiny import build_tiny_llama

    place.mkdir(parents=True)
    build_tiny_llama(place / "tiny")
    rows = [{"prompt": f"What is {n} + {n}?", "completion": str(2 * n)} for n in range(40)]
    asked = [{"prompt": row["prompt"], "answer": row["completion"]} for row in rows[:20]]
    pairs = [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": "none"} for row in rows
    ]
    for name, each in (("train", rows), ("heldout", asked), ("pairs", pairs)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    (place / "score.py").write_text(SCORE)
    (place / "chaos.yaml").write_text(json.dumps(CHAIN, indent=1))  # JSON is YAML


def start(place: Path) -> subprocess.Popen[bytes]:
    command = ["pipeline", "pipeline.path=chaos.yaml"]
    return subprocess.Popen(
        [sys.executable, "-m", "rlpost.cli.main", *command],
        cwd=place, env=os.environ | {MARK: place.name}, start_new_session=True,
    )  # fmt: skip


def run(place: Path, rng: random.Random, straight_s: float | None) -> tuple[int, float]:
    """Run the chain until it ends, or a random moment; return its exit code and the moment."""
    process, begin = start(place), time.monotonic()
    if straight_s is not None:
        try:
            process.wait(rng.uniform(0.02, 0.2) * straight_s)
        except subprocess.TimeoutExpired:
            kill_all(place.name)
    return process.wait(), time.monotonic() - begin


def kill_all(name: str) -> None:
    """Kill every process of a run, until there is none."""
    while victims := list(processes(name)):
        for each in victims:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.1)  # not psutil's wait, which would take the exit code of our own child


def processes(name: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == name:
                yield process
        except psutil.Error:
            continue


def lineage(place: Path) -> dict[str, dict[str, dict]]:
    file = place / RUN / "lineage.json"
    return json.loads(file.read_text()) if file.exists() else {"stages": {}, "scores": {}}


def going(place: Path) -> str:
    """Return which parts were under way."""
    tree = lineage(place)
    parts = [name for kind in ("stages", "scores") for name, each in tree[kind].items()
             if each["state"] != "done"]  # fmt: skip
    return ", ".join(parts) or "nothing that had begun"


def finished(place: Path) -> dict[str, int]:
    """Return every file of the parts that are done, and when it was written."""
    tree, root = lineage(place), place / RUN
    parts = [root / kind / name for kind in ("stages", "scores") for name, each in
             tree[kind].items() if each["state"] == "done"]  # fmt: skip
    files = (file for part in parts for file in part.rglob("*") if file.is_file())
    return {str(f.relative_to(place)): written(f) for f in files if f.name not in CARDS}


def written(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def tree_of(root: Path) -> dict[str, str]:
    """Return the hash of every file that decides."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.name in KEPT or path.parent.name == "dataset"
    }


if __name__ == "__main__":
    sys.exit(main())
