"""The content of the report, read from the files of a run directory and thinned.

Owns reading, thinning and the headline numbers. Refuses to own the layout (templates/) and the
curves (charts.py). Invariants: only files of the run directory are read; the page tells what was
thinned; an unfinished or damaged file gives a note on the page and does not prevent it.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlpost.control.learning_signs import signs_of
from rlpost.control.sign import Sign, SignKind
from rlpost.errors import DataError
from rlpost.tracking.files.examples import read_examples
from rlpost.tracking.files.jsonl import Row, read_metrics
from rlpost.tracking.files.rollouts import rollout_files
from rlpost.tracking.files.run_log import read_warnings
from rlpost.tracking.heldout import heldout_result, heldout_words, is_graded
from rlpost.tracking.learning_watch import patience_of
from rlpost.tracking.progress import STEP_NUMBERS, THROUGHPUT, cost_words, duration
from rlpost.tracking.report.charts import charts_for
from rlpost.tracking.report.timeline_view import timeline_view
from rlpost.tracking.sample import evenly

_MAX_POINTS = 800  # steps per curve
_MAX_SAMPLE_STEPS = 60
_MAX_SAMPLES_PER_STEP = 64
_MAX_SAMPLE_BYTES = 2_400_000  # of the page; plotly.js takes 4.8 MB
_MAX_TEXT = 6000  # characters of a prompt or response
_MAX_STRETCH = 1200  # characters of a stretch of a training example
_MAX_INFO = 300  # characters of each value in a verdict's info
_MAX_WARNINGS = 100


@dataclass(frozen=True, kw_only=True)
class Headline:
    """One number at the top of the page; ``note`` is what to compare it with."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything that the template needs, as plain data."""

    name: str
    config: str
    headlines: list[Headline]
    signs: list[dict[str, str]]  # signs that the run does not learn: finding and advice
    signs_are_grave: bool  # a sign other than missing held-out data
    steps: list[int]
    metrics: dict[str, list[float | None]]
    sections: list[dict[str, Any]]  # of charts
    samples: list[dict[str, Any]]
    num_samples: int  # on disk
    examples: list[dict[str, Any]]  # training examples with their masks
    num_examples: int  # on disk
    timeline: dict[str, Any] | None
    warnings: list[dict[str, Any]]
    num_rows: int


def report_data(run_dir: Path) -> ReportData:
    """Read a run directory; any file may be missing."""
    problems: list[str] = []
    rows = rows_of(run_dir / "metrics.jsonl", problems)
    samples, num_samples = _samples(run_dir / "rollouts", problems)
    examples = _examples(run_dir / "examples.jsonl", problems)
    config_path = run_dir / "config.yaml"
    config = config_path.read_text("utf-8", errors="replace") if config_path.exists() else ""
    planned = planned_steps(config)
    thinned = thin(rows, max_points=_MAX_POINTS)
    metrics = columns(thinned)
    graded = any(map(is_graded, rows))
    signs = signs_of(rows, patience=patience_of(planned))
    return ReportData(
        name=run_dir.resolve().name,
        config=config,
        headlines=_headlines(rows, planned, graded=graded),
        signs=[_plain_sign(sign) for sign in signs],
        signs_are_grave=any(sign.kind is not SignKind.no_heldout for sign in signs),
        steps=[row["step"] for row in thinned],
        metrics=metrics,
        sections=charts_for(metrics, graded=graded),
        samples=samples,
        num_samples=num_samples,
        examples=_within_budget([_cut_example(each) for each in examples]),
        num_examples=len(examples),
        timeline=_timeline(run_dir / "trace.json", problems),
        warnings=_warnings(run_dir / "run.log", problems),
        num_rows=len(rows),
    )


def rows_of(path: Path, problems: list[str]) -> list[Row]:
    """Return the rows of a metrics file; if it is damaged, none and a problem."""
    try:
        return read_metrics(path)
    except DataError as error:
        problems.append(str(error))
        return []


def _timeline(path: Path, problems: list[str]) -> dict[str, Any] | None:
    try:
        return timeline_view(path)
    except DataError as error:
        problems.append(str(error))
        return None


def thin(rows: Sequence[Row], *, max_points: int) -> list[Row]:
    """Keep at most ``max_points`` rows, and a quarter as many with an evaluation."""
    if len(rows) <= max_points:
        return list(rows)
    evaluated = [index for index, row in enumerate(rows) if heldout_result(row) is not None]
    kept = {*evenly(range(len(rows)), max_points), *evenly(evaluated, max_points // 4)}
    return [rows[index] for index in sorted(kept)]


def columns(rows: Sequence[Row]) -> dict[str, list[float | None]]:
    """Return metric -> value per row; names that never had a finite value are left out."""
    names = sorted({name for row in rows for name in row} - {"step"})
    found = {name: [_short(row.get(name)) for row in rows] for name in names}
    return {
        name: values for name, values in found.items() if any(value is not None for value in values)
    }


def _short(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


def planned_steps(config: str) -> int | None:
    """Return ``trainer.steps`` of a config.yaml; None if it has none."""
    try:
        tree = yaml.safe_load(config)
    except yaml.YAMLError:
        return None
    trainer = tree.get("trainer") if isinstance(tree, Mapping) else None
    steps = trainer.get("steps") if isinstance(trainer, Mapping) else None
    return steps if isinstance(steps, int) else None


def _plain_sign(sign: Sign) -> dict[str, str]:
    return {"finding": sign.finding[:1].upper() + sign.finding[1:], "advice": sign.advice}


def _headlines(rows: Sequence[Row], planned: int | None, *, graded: bool) -> list[Headline]:
    found = []
    heldout = [(row["step"], each) for row in rows if (each := heldout_result(row)) is not None]
    if heldout:
        last_step, last = heldout[-1]
        note = f"{heldout[0][1].value:.3f} at step {heldout[0][0]}" if len(heldout) > 1 else ""
        found.append(
            Headline(
                label=f"{heldout_words(last.kind, graded=graded).capitalize()}, step {last_step}",
                value=f"{last.value:.3f}",
                note=f"from {note}" if note else "",
            )
        )
    for shown in STEP_NUMBERS:
        values = [value for row in rows if (value := shown.of(row)) is not None]
        if values and shown.is_headline:
            note = f"from {values[0]:z.{shown.digits}f}" if len(values) > 1 else ""
            last_text = f"{values[-1]:z.{shown.digits}f}"
            found.append(Headline(label=f"Training {shown.label}", value=last_text, note=note))
            break  # beside a reward the loss of a policy gradient says nothing of success
    if rows:
        found.append(
            Headline(
                label="Steps",
                value=str(rows[-1]["step"]),
                note=f"of {planned}" if planned is not None else "",
            )
        )
        found.append(Headline(label="Wall time", value=duration(float(rows[-1]["time_s"]))))
    if rows and (cost := cost_words(rows[-1])) is not None:
        found.append(Headline(label="Cost", value=cost[0], note=cost[1]))
    throughput = _values(rows, THROUGHPUT)
    if throughput:
        middle = sorted(throughput)[len(throughput) // 2]
        found.append(Headline(label="Tokens per second", value=f"{middle:,.0f}", note="median"))
    return found


def _values(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows if row.get(name) is not None]


def _samples(root: Path, problems: list[str]) -> tuple[list[dict[str, Any]], int]:
    """Return samples for the page, within its byte budget, and their number on disk."""
    files = rollout_files(root)
    chosen = set(evenly(list(files), _MAX_SAMPLE_STEPS))
    found: list[dict[str, Any]] = []
    total = 0
    for step, path in files.items():
        lines = path.read_bytes().splitlines()
        total += len(lines)
        if step in chosen:
            found += _parse(evenly(lines, _MAX_SAMPLES_PER_STEP), step, path, problems)
    return _within_budget(found), total


def _examples(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    try:
        return read_examples(path)
    except DataError as error:
        problems.append(str(error))
        return []


def _cut_example(example: Mapping[str, Any]) -> dict[str, Any]:
    """Return an example whose stretches are cut in their middle: their ends show the mask."""
    runs = [[_without_middle(text), trained] for text, trained in example["runs"]]
    return {**example, "runs": runs}


def _without_middle(text: str) -> str:
    if len(text) <= _MAX_STRETCH:
        return text
    half, left_out = _MAX_STRETCH // 2, len(text) - _MAX_STRETCH
    return f"{text[:half]}… {left_out:,} characters …{text[-half:]}"


def _parse(
    lines: Sequence[bytes], step: int, path: Path, problems: list[str]
) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        try:
            record = json.loads(line, parse_constant=lambda _: None)  # NaN becomes null
            found.append(_row_of(step, record))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            problems.append(f"{path.name}: a line is not a sample ({error})")
    return found


def _row_of(step: int, record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "step": step,
        "uid": str(record["uid"]),
        "sample": record["sample"],
        "reward": record["reward"],
        "prompt": _cut(record["prompt"]),
        "response": _cut(record["response"]),
        "finish": str(record["finish_reason"]),
        "tokens": record["num_tokens"],
        "versions": sorted({span["version"] for span in record["spans"]}),
        "verdicts": [
            {
                "verifier": str(each["verifier"]),
                "reward": each.get("reward"),
                "error": each.get("error"),
                "info": _info(each.get("info")),
            }
            for each in record["verdicts"]
        ],
    }


def _info(info: Any) -> dict[str, str]:
    """Return the info of a verdict as short texts."""
    if not isinstance(info, Mapping):
        return {}
    return {_short_text(key): _short_text(value) for key, value in info.items()}


def _short_text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _MAX_INFO else f"{text[:_MAX_INFO]}…"


def _cut(text: str) -> str:
    if len(text) <= _MAX_TEXT:
        return text
    return f"{text[:_MAX_TEXT]}… ({len(text) - _MAX_TEXT:,} more characters in rollouts/)"


def _within_budget(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    sizes = [len(json.dumps(each)) for each in samples]
    while sum(sizes) > _MAX_SAMPLE_BYTES:
        share = _MAX_SAMPLE_BYTES / sum(sizes)
        keep = evenly(range(len(samples)), max(1, int(len(samples) * share * 0.97)))
        if len(keep) == len(samples):
            break
        samples, sizes = [samples[i] for i in keep], [sizes[i] for i in keep]
    return samples


def _warnings(path: Path, problems: Sequence[str]) -> list[dict[str, Any]]:
    """Return the distinct warnings, latest first, each with its count and last time."""
    entries = read_warnings(path)
    counts: Counter[str] = Counter(message for _, _, message in entries)
    latest = {message: (time, level) for time, level, message in entries}
    found = [
        {"time": time, "level": level, "message": message, "count": counts[message]}
        for message, (time, level) in latest.items()
    ]
    found.sort(key=lambda each: str(each["time"]), reverse=True)
    own = [
        {"time": "report", "level": "warning", "message": message, "count": count}
        for message, count in Counter(problems).items()
    ]
    return (own + found)[:_MAX_WARNINGS]
