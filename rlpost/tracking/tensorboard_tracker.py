"""TensorBoard event files, in ``<run>/tensorboard/``.

Owns the files and their agreement with metrics.jsonl. Refuses to own numbers. Invariants: the
files have the content of metrics.jsonl, also after a resume or a rewind, because they are then
rewritten from it; a failure gives one warning and does not end the run.
"""

import importlib.util
import logging
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlpost.errors import UserError
from rlpost.tracking.boundary import attempt
from rlpost.tracking.files.jsonl import read_metrics
from rlpost.tracking.sample import SampleRecord
from rlpost.tracking.tracker import RunStatus

logger = logging.getLogger(__name__)


def need_tensorboard() -> None:
    """Raises UserError: the package is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "tracking.tensorboard=true needs tensorboard: pip install 'rlpost[tracking]'"
        )


class TensorBoardTracker:
    """Tracker that writes scalars; ``tensorboard --logdir runs`` shows all runs."""

    def __init__(self, run_dir: Path) -> None:
        self._metrics = run_dir / "metrics.jsonl"
        self._root = run_dir / "tensorboard"
        self._writer: Any = None
        self._given_up = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the scalars of ``step``."""
        self._try(f"the TensorBoard record of step {step}", lambda: self._write(step, metrics))

    def log_samples(self, step: int, samples: Sequence[SampleRecord]) -> None:
        """Do nothing: samples are in rollouts/ and report.html."""

    def rewind(self, step: int) -> None:
        """Rewrite the files from metrics.jsonl, which was rewound before."""
        self._try("writing TensorBoard's files anew", self._rebuild)

    def close(self, status: RunStatus) -> None:
        """Flush and close."""
        if self._writer is not None:
            attempt("closing TensorBoard", self._writer.close)
            self._writer = None

    def _rebuild(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for path in self._root.glob("events.out.tfevents.*"):
            path.unlink()
        for row in read_metrics(self._metrics):
            self._write(row["step"], {k: v for k, v in row.items() if k not in ("step", "time_s")})

    def _write(self, step: int, metrics: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=float(value))
            for name, value in metrics.items()
            if value is not None and math.isfinite(value)
        ]
        if not values:
            return
        if self._writer is None:
            self._writer = _open(self._root)
            self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _append(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()

    def _try(self, what: str, call: Any) -> None:
        if self._given_up:
            return
        if not attempt(what, lambda: call() or True):
            # With a row missing, the files would not agree with metrics.jsonl.
            self._given_up = True
            logger.warning("TensorBoard is given up for this run; a resume writes its files anew")


def _open(root: Path) -> Any:
    """Return TensorBoard's writer of records on a new file.

    TensorBoard's EventFileWriter is not used, because its thread prints errors on the terminal.
    """
    from tensorboard.summary.writer.record_writer import RecordWriter

    root.mkdir(parents=True, exist_ok=True)
    name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
    return RecordWriter((root / name).open("wb", buffering=0))
