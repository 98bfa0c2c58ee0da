"""Stages that learn from a data set in processes of their own, on the tiny model."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
