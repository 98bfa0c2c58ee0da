"""``metrics.jsonl``: the metrics of a run, one JSON object per step.

Owns the file. Refuses to own what the metrics mean. Invariants: every line is valid JSON (a
non-finite value becomes null, with a warning); steps strictly increase from line to line; an
incomplete last line of a killed writer is removed when the file is opened again.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

from rlpost.checkpoint.state import write_text
from rlpost.errors import DataError
from rlpost.tracking.boundary import own_record
from rlpost.tracking.sample import SampleRecord
from rlpost.tracking.tracker import RunStatus

logger = logging.getLogger(__name__)

Row = dict[str, Any]  # "step", "time_s", then flat metric names


class MetricsWriter:
    """Tracker that appends to ``path``; ``time_s`` continues over resumes.

    Example: the line ``{"step": 1, "time_s": 31.2, "critic/score/mean": 0.25}``
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        path.parent.mkdir(parents=True, exist_ok=True)
        _repair(path)
        self._last: Row | None = None
        self._last_offset = 0  # where the last line starts
        self._end = 0  # size of the file in bytes
        self._start = 0.0  # of the whole run, on this process's clock
        self._file: FileIO
        self._open()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the line of ``step``; a second call for the same step extends its line.

        Raises:
            RunFailed: the write fails; the lines before are complete.
        """
        last = self._last
        assert last is None or step >= last["step"], (step, last["step"])
        row: Row = {"step": step, "time_s": round(self._clock() - self._start, 3)}
        offset = self._end
        if last is not None and last["step"] == step:
            row, offset = {**last, "time_s": row["time_s"]}, self._last_offset
        row.update({name: _number(name, value, step) for name, value in metrics.items()})
        line = json.dumps(row, allow_nan=False).encode()
        # Never shorter than the line it replaces, so that one write leaves complete lines.
        line = line.ljust(self._end - offset - 1) + b"\n"
        with own_record(self.path):
            self._write(line, offset)
        self._last, self._last_offset, self._end = row, offset, offset + len(line)

    def log_samples(self, step: int, samples: Sequence[SampleRecord]) -> None:
        """Do nothing: samples are in rollouts/."""

    def rewind(self, step: int) -> None:
        """Remove the lines of later steps in one rename; time continues from the last one kept.

        Raises:
            DataError: a line is damaged.
            RunFailed: the write fails.
        """
        self._file.close()
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        with own_record(self.path):
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
            self._open()

    def close(self, status: RunStatus) -> None:
        """Close the file; every line was written before."""
        self._file.close()

    def _write(self, line: bytes, offset: int) -> None:
        """Write all of ``line``, or restore the file."""
        before = os.pread(self._file.fileno(), self._end - offset, offset)
        try:
            _write_at(self._file, line, offset)
        except OSError:
            with suppress(OSError):
                self._file.truncate(self._end)
                _write_at(self._file, before, offset)  # needs no new blocks
            raise

    def _open(self) -> None:
        rows = read_metrics(self.path)
        self._last = rows[-1] if rows else None
        self._file = FileIO(self.path, "r+" if self.path.exists() else "w+")
        data = self._file.read()
        self._end = len(data)
        self._last_offset = data.rfind(b"\n", 0, max(0, len(data) - 1)) + 1
        self._start = self._clock() - (float(self._last["time_s"]) if self._last else 0.0)


def _write_at(file: FileIO, data: bytes, offset: int) -> None:
    """Write all of ``data``: on a nearly full disk one call writes a part, and the next fails."""
    while data:
        written = os.pwrite(file.fileno(), data, offset)
        data, offset = data[written:], offset + written


def read_metrics(path: Path) -> list[Row]:
    """Return the rows of a metrics file, oldest first, without an incomplete last line.

    Raises:
        DataError: a line is not a JSON object with a whole ``step`` and a ``time_s``, or its step
            does not follow the one before.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # text after the last newline is incomplete
    rows = [_row(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    for number, (before, row) in enumerate(pairwise(rows), start=2):
        if row["step"] <= before["step"]:
            raise DataError(
                f"{path}:{number}: step {row['step']} cannot follow step {before['step']}; remove "
                "the line to go on"
            )
    return rows


def _row(line: bytes, address: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{address}: not JSON ({error}); remove the line to go on") from error
    fields = row if isinstance(row, dict) else {}
    numbers = {name for name, value in fields.items() if type(value) in (int, float)}
    whole = type(fields.get("step")) is int and fields["step"] >= 0
    if not whole or "time_s" not in numbers:
        raise DataError(
            f"{address}: must be an object with a whole 'step' and a 'time_s' in seconds; remove "
            "the line to go on"
        )
    for name in fields.keys() - numbers:
        if fields[name] is not None:
            raise DataError(
                f"{address}: {name!a:.100} must be a number or null, got "
                f"{type(fields[name]).__name__}; remove the line to go on"
            )
    return fields


def _repair(path: Path) -> None:
    """Remove a last line without its newline, which a killed writer left."""
    if not path.exists():
        return
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        logger.warning("%s: removed an unfinished last line of %d bytes", path, len(data) - end)
        with open(path, "r+b") as file:
            file.truncate(end)


def _number(name: str, value: float, step: int) -> float | int | None:
    if isinstance(value, bool | int):
        return int(value)
    number = float(value)
    if not math.isfinite(number):
        logger.warning("%s was %s at step %d: recorded as null", name, number, step)
        return None
    return number
