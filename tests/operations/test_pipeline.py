"""A chain of real stages: killed, continued, and a stage planted to do harm rolled back."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cli_runs import finish, metrics, wait_for_step
from supervised_runs import write_rows

pytestmark = pytest.mark.timeout(900)
TRAINED = {
    "trainer.dtype": "float32", "trainer.threads": 1, "data.workers": 0, "checkpoint.every": 1,
    "examples_per_step": 8, "trainer.steps": 6, "tracking.wandb": "disabled",
}  # fmt: skip


def start(place: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "rlpost.cli.main", "pipeline", "pipeline.path=chain.yaml"],
        cwd=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip


def write_chain(place: Path, model: Path) -> None:
    """One answer to everything is learned at once, and unlearned at a rate 200 times as large."""
    asked = [f"Question {n}?" for n in range(24)]
    write_rows(place / "train.jsonl", ({"prompt": q, "completion": "ok"} for q in asked))
    write_rows(place / "heldout.jsonl", ({"prompt": q + "?", "answer": "ok"} for q in asked))
    chain = {
        "name": "chain",
        "base": {"path": str(model)},
        "common": {
            "sft": TRAINED,
            "evaluate": {"generator.dtype": "float32", "generator.threads": 1},
        },
        "gates": {
            "suites": {"t": {"data": "heldout.jsonl", "verifier": "exact", "max_tokens": 4}},
            "on_fail": "rollback",
        },
        "stages": [
            {"id": name, "run": "sft", "from": start, "data": {"train": "train.jsonl"},
             "set": {"trainer.lr": lr}, "gate": [gate]}
            for name, start, lr, gate in (("good", "base", 5e-3, "delta(t) >= 0.5"),
                                          ("bad", "good", 1, "delta(t) >= -0.02"))
        ],
        "publish": {"from": "bad"},
    }  # fmt: skip
    (place / "chain.yaml").write_text(yaml.safe_dump(chain))


def test_a_killed_chain_goes_on_and_a_bad_stage_is_rolled_back(tmp_path, tiny_model):
    write_chain(tmp_path, tiny_model)
    root = tmp_path / "runs/chain"
    first = start(tmp_path)
    wait_for_step(root / "stages/good", 3, first, timeout_s=600)  # so that step 1 is saved
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    done = metrics(root / "stages/good")
    second = start(tmp_path)
    said = finish(second, timeout_s=600)
    assert second.returncode == 0, said
    assert "base: scoring" not in said  # which was done before the kill
    rows = metrics(root / "stages/good")
    assert [row["step"] for row in rows] == list(range(1, 7))
    assert rows[0] == done[0]  # with the seconds it took: it was not trained again
    assert "good: gate pass" in said and "bad: gate fail" in said
    assert "warning: bad is rolled back: good takes its place" in said
    lineage = json.loads((root / "lineage.json").read_text())
    assert {name: each["outcome"] for name, each in lineage["stages"].items()} == {
        "good": "accepted", "bad": "rolled back",
    }  # fmt: skip
    weights = [root / each / "model.safetensors" for each in ("export", "stages/good/export")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert lineage["stages"]["good"]["result"]["hash"] in (root / "export/README.md").read_text()
    assert "stages/good/report.html" in (root / "report.html").read_text()
