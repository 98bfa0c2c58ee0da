"""``trace.json``: who did what from when to when, for chrome://tracing and Perfetto.

Owns the file, which is a JSON array of Chrome trace events without its closing ``]`` (the format
makes it optional), and the rows: overlapping spans of one lane go into separate rows, because
those viewers draw only nested spans in one row. Refuses to own who is timed (the driver) and the
picture in the report (report/timeline_view.py). Invariants: after every flush the file plus ``]``
is JSON; what was written is never changed; time never goes back, neither at a resume nor at a
rewind; the file stays below about twice ``limit_bytes``.
"""

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlpost.tracking.boundary import attempt
from rlpost.tracking.sample import SampleRecord
from rlpost.tracking.tracker import RunStatus

logger = logging.getLogger(__name__)

RUN_LANE = "run"  # its spans are written here, from one ``log`` to the next

_LIMIT_BYTES = 64 * 2**20
_FLUSH_BYTES = 2**20  # bounds memory and loss in a long step
_PID = 1
_WORD = re.compile(r"[A-Za-z_-]+(?= |$)")
# Every event is one line; patterns with a literal beginning are fast.
_SPAN = re.compile(rb'\n\{"ph":"X","ts":(\d+),"dur":(\d+)')
_LANE = re.compile(rb'\n(\{"ph":"M".*\})')


class TimelineWriter:
    """Tracker that appends spans to ``path``; the times of spans are readings of ``clock``.

    If a write fails there is one warning, and nothing more is recorded.

    Example::

        timeline = TimelineWriter(run_dir / "trace.json")
        timeline.span("generator 0", "0:17", start_s=12.0, end_s=14.5, tokens=512)
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        limit_bytes: int = _LIMIT_BYTES,
    ) -> None:
        self.path = path
        self._clock, self._limit_bytes = clock, limit_bytes
        self._buffer = bytearray()
        self._warned: set[int] = set()  # limits that were warned of
        self._busy_until_us: dict[str, list[int]] = {}  # lane -> end of the last span of each row
        earlier = attempt(f"reading {path}", lambda: _take_up(path))
        self._recording = earlier is not None
        earlier = earlier or _Earlier()
        self._tids, self._size = earlier.tids, earlier.size
        self._begin_us = earlier.end_us
        self._origin_s = clock() - earlier.end_us / 1e6
        self._stretch_start_s = clock()

    def span(
        self, lane: str, name: str, *, start_s: float, end_s: float, **details: str | int | float
    ) -> None:
        """Record that ``lane`` did ``name``; see ``kind_of`` for the form of names.

        A span that began before the file was opened starts at the opening.
        """
        assert start_s <= end_s, (lane, name, start_s, end_s)
        if not self._recording or not self._has_room(name):
            return
        start_us = max(self._begin_us, self._microseconds(start_s))
        end_us = max(start_us, self._microseconds(end_s))
        event: dict[str, Any] = {
            "ph": "X",
            "ts": start_us,
            "dur": end_us - start_us,
            "pid": _PID,
            "tid": self._row(lane, start_us, end_us),
            "cat": kind_of(lane, name),
            "name": name,
        }
        if details:
            event["args"] = {key: _plain(value) for key, value in details.items()}
        self._append(event)
        if len(self._buffer) >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write everything recorded since the last flush, in one write."""
        data, self._buffer = bytes(self._buffer), bytearray()
        if not data or not self._recording:
            return
        if attempt(f"writing {self.path}", lambda: _write(self.path, data)) is None:
            self._recording = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """End the span of ``step`` in the lane "run", and flush."""
        self._end_stretch(f"step {step}")

    def log_samples(self, step: int, samples: Sequence[SampleRecord]) -> None:
        """Samples belong to rollouts/."""

    def rewind(self, step: int) -> None:
        """Record that the run went back; time continues, and earlier spans stay."""
        if self._size:
            self._end_stretch(f"back to step {step}")

    def close(self, status: RunStatus) -> None:
        """Flush."""
        if self._size:
            self._end_stretch(status.value)

    def _end_stretch(self, name: str) -> None:
        now_s = self._clock()
        self.span(RUN_LANE, name, start_s=self._stretch_start_s, end_s=now_s)
        self._stretch_start_s = now_s
        self.flush()

    def _has_room(self, name: str) -> bool:
        """Items stop at the limit; work, a few spans per step, stops at twice the limit."""
        is_item = _WORD.match(name) is None
        limit = self._limit_bytes * (1 if is_item else 2)
        if self._size < limit:
            return True
        if limit not in self._warned:
            self._warned.add(limit)
            what = "single samples and groups" if is_item else "spans of time"
            logger.warning("%s has reached %d bytes: no more %s in it", self.path, limit, what)
        return False

    def _microseconds(self, reading_s: float) -> int:
        return round((reading_s - self._origin_s) * 1e6)

    def _row(self, lane: str, start_us: int, end_us: int) -> int:
        """Return the tid of the first row of ``lane`` that is free from ``start_us`` on."""
        rows = self._busy_until_us.setdefault(lane, [])
        free = (row for row, busy_until in enumerate(rows) if busy_until <= start_us)
        row = next(free, len(rows))
        rows[row : row + 1] = [end_us]
        shown = lane if row == 0 else f"{lane} #{row + 1}"
        if shown not in self._tids:
            self._tids[shown] = tid = len(self._tids) + 1
            named = {"ph": "M", "name": "thread_name", "pid": _PID, "tid": tid}
            self._append({**named, "args": {"name": shown}})
        return self._tids[shown]

    def _append(self, event: Mapping[str, Any]) -> None:
        # The comma comes before an event, so that adding "]" always completes the file.
        line = (",\n" if self._size else "[\n") + json.dumps(event, separators=(",", ":"))
        self._buffer += line.encode()
        self._size += len(line)


def kind_of(lane: str, name: str) -> str:
    """Return the kind of work of a span, which decides its colour.

    A name that begins with a word is the work itself (``push v3``: push). Any other name is a
    piece of data, an item (``0:17``), and the lane tells what was done (``generator 0``).
    """
    if lane == RUN_LANE:
        return RUN_LANE
    word = _WORD.match(name) or _WORD.match(lane)
    return word[0] if word else lane


def row_names(data: bytes) -> dict[int, str]:
    """Return tid -> name of its row for the content of a trace file.

    Raises:
        ValueError, KeyError, TypeError: the content is not what ``TimelineWriter`` writes.
    """
    events = map(json.loads, _LANE.findall(data))
    return {event["tid"]: event["args"]["name"] for event in events}


@dataclass(kw_only=True)
class _Earlier:
    """State of the file of an earlier process: size, end of its time, and row -> tid."""

    size: int = 0
    end_us: int = 0
    tids: dict[str, int] = field(default_factory=dict)


def _take_up(path: Path) -> _Earlier:
    """Read the file of an earlier process, after truncating it to complete events."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return _Earlier()
    data = path.read_bytes()
    end = _end_of_whole_events(data)
    if end < len(data):
        logger.warning("%s: removed an incomplete event of %d bytes", path, len(data) - end)
        os.truncate(path, end)
    data = data[:end]
    ends_us = (int(match[1]) + int(match[2]) for match in _SPAN.finditer(data))
    tids = {shown: tid for tid, shown in row_names(data).items()}
    return _Earlier(size=end, end_us=max(ends_us, default=0), tids=tids)


def _end_of_whole_events(data: bytes) -> int:
    """Return the size of the complete events, in case the last write was cut; 0: start anew."""
    end = len(data) if data.startswith(b"[\n") else 0
    while end > 2:
        start = data.rfind(b"\n", 0, end) + 1
        if is_event(data[start:end]):
            return end
        end = start - 2 if data[start - 2 : start] == b",\n" else start - 1
    return 0


def is_event(line: bytes) -> bool:
    """Whether ``line`` is a complete event."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _write(path: Path, data: bytes) -> int:
    with open(path, "ab") as file:
        return file.write(data)


def _plain(value: str | int | float) -> str | int | float:
    """Return plain JSON data: numbers of other libraries and NaN become text."""
    if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
