"""Stages that learn from a data set in processes of their own, on the tiny model."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from cli_runs import finish, metrics, wait_for_step

EVERY_RUN = (
    "trainer.dtype=float32",
    "trainer.threads=1",
    "trainer.lr=1e-3",
    "tracking.wandb=disabled",
    "tracking.console=quiet",
)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def start(place: Path, stage: str, model: Path, name: str, *overrides: str) -> subprocess.Popen:
    encodes = "data.online=true" not in overrides
    command = [
        sys.executable,
        "-m",
        "rlpost.cli.main",
        stage,
        f"run.name={name}",
        f"model.path={model}",
        *EVERY_RUN,
        *(["data.workers=0"] if encodes else []),
        *overrides,
    ]
    return subprocess.Popen(
        command,
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def completed(process: subprocess.Popen) -> None:
    output = finish(process)
    assert process.returncode == 0, output


def killed_at_random(process: subprocess.Popen, run: Path, steps: range) -> int:
    """SIGKILL a driver and all that it started after one of ``steps``; return which."""
    step = random.SystemRandom().choice(steps)
    wait_for_step(run, step, process)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    return step


def measured(run: Path, names: Collection[str]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in names if key in row} for row in metrics(run)]


def assert_same(run: Path, whole: Path, names: Collection[str], *, killed_after: int) -> None:
    """What two runs measured is the same to the last digit, and so is what they exported."""
    import torch
    from safetensors.torch import load_file

    assert measured(run, names) == measured(whole, names), f"killed after step {killed_after}"
    ours, theirs = (load_file(root / "export" / "model.safetensors") for root in (run, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
