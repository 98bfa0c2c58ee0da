"""Compares one reward function written for TRL, for verl and for OpenRLHF.

Three runs on a tiny random model, alike but for the function of docs/examples/ (and, for verl, the
Parquet layout of the same rows); then their rewards, gradients and responses are compared, number
for number.

    .venv/bin/python benchmarks/reward_contracts.py --steps 4 [hydra overrides]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from rlpost.models.tiny import build_tiny_llama

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
FUNCTIONS = {
    "trl": "trl_reward.py:right_and_short",
    "verl": "verl_reward.py:compute_score",
    "openrlhf": "openrlhf_reward.py:reward_func",
}
COMPARED = ("critic/score/mean", "critic/advantages/max", "actor/pg_loss", "actor/grad_norm")


def write_rows(place: Path) -> dict[str, Path]:
    """Write the same prompts as JSONL and in verl's layout."""
    pairs = [(a, b) for a in range(2, 10) for b in range(2, 10)]
    prompts = [[{"role": "user", "content": f"What is {a} * {b}?"}] for a, b in pairs]
    answers = [str(a * b) for a, b in pairs]
    lines = [
        json.dumps({"prompt": prompt, "answer": answer})
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    (place / "train.jsonl").write_text("\n".join(lines) + "\n")
    rows = [
        {
            "data_source": "multiplication",
            "prompt": prompt,
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": answer},
            "extra_info": {"split": "train", "index": index},
        }
        for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), place / "train.parquet")
    jsonl = place / "train.jsonl"
    return {"trl": jsonl, "verl": place / "train.parquet", "openrlhf": jsonl}


def run(place: Path, name: str, *, data: Path, steps: int, overrides: list[str]) -> Path:
    command = [
        sys.executable, "-m", "rlpost.cli.main", "rl",
        f"run.name={name}", f"model.path={place / 'model'}", f"data.train={data}",
        "verifier=function", f"verifier.path={EXAMPLES / FUNCTIONS[name]}", "verifier.timeout_s=20",
        "rollout.max_tokens=16", "rollout.prompts_per_step=4", "rollout.group_size=4",
        f"trainer.steps={steps}", "trainer.lr=1e-3", "trainer.dtype=float32",
        "tracking.wandb=disabled", *overrides,
    ]  # fmt: skip
    subprocess.run(command, cwd=place, check=True, stdout=subprocess.DEVNULL)
    return place / "runs" / name


def curves(root: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return [{key: row.get(key) for key in COMPARED} for row in rows if row["step"] > 0]


def responses(root: Path) -> list[tuple[Any, ...]]:
    keys = ("uid", "sample", "response", "reward")
    files = sorted((root / "rollouts").glob("step_*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return sorted(tuple(row[key] for key in keys) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4)
    options, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as place_name:
        place = Path(place_name)
        build_tiny_llama(place / "model")
        data = write_rows(place)
        roots = {
            name: run(place, name, data=data[name], steps=options.steps, overrides=overrides)
            for name in FUNCTIONS
        }
        all_curves = {name: curves(root) for name, root in roots.items()}
        all_responses = {name: responses(root) for name, root in roots.items()}
    for step, rows in enumerate(zip(*all_curves.values(), strict=True), start=1):
        for key in COMPARED:
            print(f"step {step} {key:24}", *(f"{name}={row[key]!r}" for name, row in
                  zip(FUNCTIONS, rows, strict=True)))  # fmt: skip
    equal_curves = all(each == all_curves["trl"] for each in all_curves.values())
    equal_responses = all(each == all_responses["trl"] for each in all_responses.values())
    num = len(all_responses["trl"])
    print(f"curves equal: {equal_curves}; {num} responses and rewards equal: {equal_responses}")
    sys.exit(not (equal_curves and equal_responses and num))


if __name__ == "__main__":
    main()
