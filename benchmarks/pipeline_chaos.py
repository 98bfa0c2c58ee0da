"""A pipeline on the tiny model, killed at random moments: does it end with the same result?

    .venv/bin/python benchmarks/pipeline_chaos.py --kills 10

Runs the chain once undisturbed and once killed (SIGKILL of the pipeline alone, as a machine's
memory guard does), the same command again after each kill, and compares weights, answers, gates and
lineage byte by byte.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

KEPT = ("lineage.json", "gates.jsonl", "model.safetensors", "evaluation.jsonl")
SMALL = {"tracking.wandb": "disabled"}
TRAINS = {**SMALL, "trainer.dtype": "float32", "trainer.threads": 1, "data.workers": 0}
CHAIN = {
    "name": "chaos",
    "base": {"path": "tiny"},
    "common": {
        "sft": {**TRAINS, "checkpoint.every": 1, "examples_per_step": 8},
        "evaluate": {**SMALL, "generator.dtype": "float32", "generator.threads": 1},
    },
    "gates": {"suites": {"t": {"data": "heldout.jsonl", "verifier": "exact", "max_tokens": 4}}},
    "stages": [
        {
            "id": name,
            "run": "sft",
            "from": start,
            "data": {"train": "train.jsonl"},
            "set": {"trainer.steps": 6, "trainer.lr": 1e-3},
            "gate": ["delta(t) >= -1"],
        }
        for name, start in (("one", "base"), ("two", "one"))
    ],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, default=Path("runs/pipeline_chaos"))
    args = parser.parse_args()
    prepare(args.dir)
    begin = time.monotonic()
    assert start(args.dir, "straight").wait() == 0
    straight_s = time.monotonic() - begin
    rng, kills = random.Random(args.seed), 0
    while (code := run(args.dir, rng, straight_s if kills < args.kills else None)) != 0:
        assert code == -signal.SIGKILL, f"the pipeline ended with exit code {code}"
        kills += 1
        print(f"kill {kills}", flush=True)
    found = [tree_of(args.dir / "runs" / name) for name in ("straight", "killed")]
    differing = sorted(
        n for n in found[0].keys() | found[1].keys() if found[0].get(n) != found[1].get(n)
    )
    print(json.dumps({"kills": kills, "files": len(found[0]), "differing": differing}))
    return 1 if differing or kills < args.kills else 0


def prepare(place: Path) -> None:
    """Write the model, the rows and the file of stages."""
    from rlpost.models.tiny import build_tiny_llama

    place.mkdir(parents=True)
    build_tiny_llama(place / "tiny")
    rows = [{"prompt": f"What is {n} + {n}?", "completion": str(2 * n)} for n in range(40)]
    asked = [{"prompt": row["prompt"], "answer": row["completion"]} for row in rows[:20]]
    for name, each in (("train", rows), ("heldout", asked)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    (place / "chaos.yaml").write_text(yaml.safe_dump(CHAIN))


def start(place: Path, name: str) -> subprocess.Popen[bytes]:
    command = ["pipeline", "pipeline.path=chaos.yaml", f"run.name={name}"]
    return subprocess.Popen([sys.executable, "-m", "rlpost.cli.main", *command], cwd=place)


def run(place: Path, rng: random.Random, straight_s: float | None) -> int:
    """Run the chain until it ends, or until a random moment; return its exit code."""
    process = start(place, "killed")
    if straight_s is not None:
        try:
            process.wait(rng.uniform(0.05, 0.4) * straight_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def tree_of(root: Path) -> dict[str, str]:
    """Return the hash of every file that decides."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.name in KEPT
    }


if __name__ == "__main__":
    sys.exit(main())
