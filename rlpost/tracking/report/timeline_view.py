"""The last steps of ``trace.json``, for the timeline in the report.

Owns which spans are shown and how busy each lane was. Refuses to own the file (files/timeline.py)
and looks (templates/report.js). Invariants: what is left out is counted; whatever is wrong
with the file is a ``DataError``.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpost.errors import DataError
from rlpost.tracking.files.timeline import RUN_LANE, is_event, row_names

_NUM_STEPS = 4
_MAX_BYTES = 3 * 2**20  # parsed, from the end of the file: about 25,000 spans
_MAX_SPANS = 1500
_MAX_DETAILS = 120  # characters
_ROW = re.compile(r"(.+) #(\d+)")
_WAIT = "wait"  # the kind of spans that do not count as work


@dataclass(frozen=True, kw_only=True)
class TimelineSpan:
    """One span; ``row`` counts within its lane from 0."""

    lane: str
    row: int
    kind: str
    name: str
    start_us: int
    end_us: int
    details: str


def timeline_view(path: Path) -> dict[str, Any] | None:
    """Return lanes and spans as plain data; None if no work was recorded.

    Times are seconds of the run. ``busy`` is the share of the window in which a lane did
    anything but wait; null for the lane of the run itself.

    Raises:
        DataError: the file is not a trace of ours.

    Example: ``{"start_s": 60.0, "end_s": 180.0, "left_out": 0, "lanes": [{"name": "trainer",
    "rows": 1, "busy": 0.6}], "kinds": ["train"], "spans": [[0, 0, 0, 62.0, 1.5, "train", ""]]}``
    with (lane, row, kind, start_s, duration_s, name, details) in a span.
    """
    if not path.exists():
        return None
    spans = _last_spans(path)
    if all(span.lane == RUN_LANE for span in spans):
        return None
    start_us, end_us = _window(spans)
    spans = [span for span in spans if span.end_us > start_us]
    lanes = sorted({span.lane for span in spans}, key=_lane_order)
    kinds = sorted({span.kind for span in spans})
    shown = sorted(_thin(spans), key=lambda span: span.start_us)
    return {
        "start_s": start_us / 1e6,
        "end_s": end_us / 1e6,
        "left_out": len(spans) - len(shown),
        "lanes": [_lane(name, spans, start_us, end_us) for name in lanes],
        "kinds": kinds,
        "spans": [
            [
                lanes.index(span.lane),
                span.row,
                kinds.index(span.kind),
                max(span.start_us, start_us) / 1e6,
                (span.end_us - max(span.start_us, start_us)) / 1e6,
                span.name,
                span.details,
            ]
            for span in shown
        ],
    }


def _last_spans(path: Path) -> list[TimelineSpan]:
    """Return the spans written since the step before the last ``_NUM_STEPS``, latest first."""
    data = path.read_bytes()
    if not data.startswith(b"[\n"):
        raise DataError(f"{path}:1: must begin with '[' alone on its line")
    try:
        names = row_names(data)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: the name of a row cannot be read ({error})") from error
    lines = data[-_MAX_BYTES:].split(b"\n")
    del lines[0]  # the bracket, or the rest of an older line
    if not is_event(lines[-1].rstrip(b",")):
        del lines[-1]  # incomplete: still being written, or its writer was killed
    spans: list[TimelineSpan] = []
    stretches: list[str] = []
    for line in reversed(lines):
        try:
            event = json.loads(line.rstrip(b","))
            if event["ph"] != "X":
                continue
            span = _span(event, names)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: a line is not an event ({error})") from error
        if span.lane == RUN_LANE:
            # An evaluation is a second span of its step; spans of no length are ends.
            if stretches[-1:] != [span.name] and span.start_us < span.end_us:
                stretches.append(span.name)
            if len(stretches) > _NUM_STEPS:
                break
        spans.append(span)
    return spans


def _span(event: dict[str, Any], names: dict[int, str]) -> TimelineSpan:
    shown = names[event["tid"]]
    match = _ROW.fullmatch(shown)
    details = ", ".join(f"{key} {value}" for key, value in event.get("args", {}).items())
    return TimelineSpan(
        lane=match[1] if match else shown,
        row=int(match[2]) - 1 if match else 0,
        kind=str(event["cat"]),
        name=str(event["name"]),
        start_us=int(event["ts"]),
        end_us=int(event["ts"]) + int(event["dur"]),
        details=details[:_MAX_DETAILS],
    )


def _window(spans: Iterable[TimelineSpan]) -> tuple[int, int]:
    """Return the time that the lane of the run covers; before the first step, all spans."""
    steps = [span for span in spans if span.lane == RUN_LANE] or list(spans)
    return min(span.start_us for span in steps), max(span.end_us for span in spans)


def _lane_order(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """Sort key: the run first, ``generator 10`` after ``generator 9``."""
    parts = re.split(r"(\d+)", name)
    return name != RUN_LANE, [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _lane(name: str, spans: Iterable[TimelineSpan], start_us: int, end_us: int) -> dict[str, Any]:
    own = [span for span in spans if span.lane == name]
    share = round(_busy_us(own, start_us) / max(1, end_us - start_us), 3)
    busy = None if name == RUN_LANE else share
    return {"name": name, "rows": 1 + max(span.row for span in own), "busy": busy}


def _busy_us(spans: Iterable[TimelineSpan], start_us: int) -> int:
    """Return the length of the union of the spans from ``start_us`` on, without waiting."""
    total, reached_us = 0, start_us
    for span in sorted(spans, key=lambda each: each.start_us):
        if span.kind != _WAIT and span.end_us > reached_us:
            total += span.end_us - max(span.start_us, reached_us)
            reached_us = span.end_us
    return total


def _thin(spans: list[TimelineSpan]) -> list[TimelineSpan]:
    """Keep the longest spans of every kind, in equal shares, so that short pushes are kept too."""
    by_kind: dict[str, list[TimelineSpan]] = defaultdict(list)
    for span in sorted(spans, key=lambda each: each.start_us - each.end_us):
        by_kind[span.kind].append(span)
    kept: list[TimelineSpan] = []
    left = sorted(by_kind.values(), key=len)
    for index, group in enumerate(left):
        share = (_MAX_SPANS - len(kept)) // (len(left) - index)
        kept += group[:share]
    return kept
