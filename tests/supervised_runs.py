"""Stages that learn from a data set in processes of their own, on the tiny model."""

import json
import os
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil
from cli_runs import Process, finish, fork, metrics

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


def start(place: Path, stage: str, model: Path, name: str, *overrides: str) -> Process:
    """Start a stage with everything imported."""
    return fork(command(stage, model, name, *overrides), place=place)


def command(stage: str, model: Path, name: str, *overrides: str) -> list[str]:
    encodes = "data.online=true" not in overrides
    return [
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


def completed(process: Process) -> None:
    output = finish(process)
    assert process.returncode == 0, output


def signalled(process: Process, number: int) -> tuple[str, list[psutil.Process]]:
    """Send ``number`` to the group of a driver; return its output, and who was below it."""
    started = psutil.Process(process.pid).children(recursive=True)
    assert any("raylet" in each.name() for each in started)
    os.killpg(process.pid, number)
    return finish(process), started


def left_of(started: list[psutil.Process]) -> list[psutil.Process]:
    """Who does not end; Ray's agents of a node that was killed try to report it for a minute."""
    return psutil.wait_procs(started, timeout=180)[1]


def cut_back(whole: Path, name: str, *, to: int) -> Path:
    """Copy a complete run as it was when its checkpoint of step ``to`` was the last: see resume."""
    cut = whole.with_name(name)
    shutil.copytree(whole, cut, symlinks=True)  # W&B links to logs it may never write
    shutil.rmtree(cut / "export")
    for checkpoint in (cut / "checkpoints").glob("step_*"):
        if int(checkpoint.name.removeprefix("step_")) > to:
            shutil.rmtree(checkpoint)
    assert (cut / "checkpoints" / f"step_{to:06d}").is_dir()
    (cut / "checkpoints" / "latest").write_text(f"step_{to:06d}")
    return cut


def went_on(run: Path, *, after: int) -> bool:
    """Whether a run went on from its checkpoint of a step, and did not begin anew."""
    return f"going on after step {after} from" in (run / "run.log").read_text()


def measured(run: Path, names: Collection[str]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in names if key in row} for row in metrics(run)]


def assert_same(run: Path, whole: Path, names: Collection[str], *, ended_after: int) -> None:
    """What two runs measured is the same to the last digit, and so is what they exported."""
    import torch
    from safetensors.torch import load_file

    assert measured(run, names) == measured(whole, names), f"ended after step {ended_after}"
    ours, theirs = (load_file(root / "export" / "model.safetensors") for root in (run, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
