"""``rollouts/step_NNNNNN.jsonl``: every judged response of a step, one JSON object per line.

Owns the files. Refuses to own the record (sample.py) and selection (report/ and
wandb/ choose from it). Invariants: a file is complete or absent; after a rewind no file is of a
later step.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlpost.checkpoint.state import write_text
from rlpost.tracking.boundary import own_record
from rlpost.tracking.sample import SampleRecord
from rlpost.tracking.tracker import RunStatus

_NAME = re.compile(r"step_(\d{6,})\.jsonl")


class RolloutWriter:
    """Tracker that writes one file per step under ``root`` (a run's ``rollouts/``)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing: metrics are in metrics.jsonl."""

    def log_samples(self, step: int, samples: Sequence[SampleRecord]) -> None:
        """Write, or replace, the file of ``step`` atomically.

        Raises:
            RunFailed: the write fails.
        """
        path = self.root / f"step_{step:06d}.jsonl"
        lines = "".join(f"{sample.to_json()}\n" for sample in samples)
        with own_record(path):
            write_text(path, lines)

    def rewind(self, step: int) -> None:
        """Remove the files of later steps, and temporary files of killed writers."""
        for path in self.root.glob(".step_*"):
            path.unlink(missing_ok=True)
        for number, path in rollout_files(self.root).items():
            if number > step:
                path.unlink(missing_ok=True)

    def close(self, status: RunStatus) -> None:
        """Do nothing: every file is complete."""


def rollout_files(root: Path) -> dict[int, Path]:
    """Return step -> file, in the order of steps; empty if there is no directory."""
    found = {}
    for path in root.glob("step_*.jsonl"):
        if match := _NAME.fullmatch(path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))
