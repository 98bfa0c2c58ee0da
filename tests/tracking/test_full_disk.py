"""What a full disk costs: real ones, of a few kilobytes, in a mount namespace."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlpost.tracking.files.jsonl import read_metrics
from rlpost.tracking.files.rollouts import rollout_files

NAMESPACE = ["unshare", "--map-root-user", "--mount"]


def _run(run_dir, size_kib, *places):
    if subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here (unshare --map-root-user --mount)")
    script = Path(__file__).with_name("full_disk.py")
    command = [*NAMESPACE, sys.executable, script, run_dir, str(size_kib), *places]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_observers_without_room_cost_warnings_and_nothing_else(tmp_path):
    run_dir = tmp_path / "run"
    done = _run(run_dir, 16, run_dir / "wandb", run_dir / "tensorboard")
    assert done.returncode == 0, done.stderr
    assert len(read_metrics(run_dir / "metrics.jsonl")) == 30
    assert len(rollout_files(run_dir / "rollouts")) == 30
    assert (run_dir / "report.html").exists()
    warnings = done.stderr.splitlines()
    assert all(line.startswith("WARNING") for line in warnings), done.stderr
    # Three tables, TensorBoard, and W&B's count of attempts where even that finds no room.
    assert 4 <= sum("No space left on device" in line for line in warnings) <= 5, done.stderr
    assert sum("W&B tables failed 3 times in a row" in line for line in warnings) == 1
    assert sum("TensorBoard is given up" in line for line in warnings) == 1


def test_a_run_never_loses_its_own_records_in_silence(tmp_path):
    run_dir = tmp_path / "run"
    done = _run(run_dir, 200, run_dir)
    assert done.returncode == 1
    assert "recorded 1\n" in done.stdout and "recorded 30" not in done.stdout
    assert "Traceback" not in done.stderr and "File " not in done.stderr
    assert " cannot be written (No space left on device)" in " ".join(done.stderr.split())
    recorded = done.stdout.count("recorded ")
    # Every line is whole; the step whose samples found no room has its metrics.
    rows = int(re.search(r"(\d+) whole rows", done.stdout)[1])
    assert rows - recorded in (0, 1)
