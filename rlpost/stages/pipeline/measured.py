"""The numbers that a stage of a pipeline reports, for its gates and its record.

Owns where each is read. Refuses to own their names in gates (pipeline/gate.py). Invariant: a number
that was not measured is absent, or the pipeline ends; it is never taken for 0.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlpost.errors import RunFailed
from rlpost.pipeline.gate import Measured
from rlpost.pipeline.spec import BASE
from rlpost.stages.pipeline.composed import PlannedStage
from rlpost.stages.pipeline.plan import PipelinePlan
from rlpost.stages.pipeline.scores import prompts_of
from rlpost.tracking.files.jsonl import read_metrics

_KL = "actor/ref_kl"


def measured_of(
    plan: PipelinePlan, planned: PlannedStage, *, attempt: int, path: Path
) -> dict[str, float]:
    """Return what a stage reports.

    Args:
        plan: of the pipeline.
        planned: the stage.
        attempt: which of its attempts.
        path: what it made.

    Raises:
        RunFailed: a gate needs a number that the stage did not report.
    """
    spec = planned.spec
    found: dict[str, float] = {}
    if spec.output == "dataset":
        rows = list(_rows(path))
        found["rows"] = float(len(rows))
        asked = {_folded(text) for text in prompts_of(plan.places, BASE, plan.groups)}
        found["leaked_into_heldout"] = float(sum(_folded(_prompt(row)) in asked for row in rows))
    else:
        metrics = read_metrics(plan.places.run(spec.id, attempt=attempt).metrics)
        values = [row[_KL] for row in metrics if _KL in row]
        # The first step samples before any update: the reference is the start if this is 0.
        ends = {"kl_at_start": values[0], "kl_to_start": values[-1]} if values else {}
        # A value that was not finite is null in the file; an earlier one does not stand for it.
        found |= {name: float(value) for name, value in ends.items() if value is not None}
    for gate in spec.gates:
        for leaf in gate.leaves():
            if isinstance(leaf, Measured) and leaf.name not in found:
                raise RunFailed(f"{spec.id} reported no {leaf.name}, which {gate.text!r} compares")
    return found


def _rows(directory: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(directory.glob("*.jsonl")):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)


def _prompt(row: dict[str, Any]) -> str:
    """Return what the person said last."""
    prompt = row.get("prompt", "")
    if isinstance(prompt, list):
        return next((str(m["content"]) for m in reversed(prompt) if m["role"] == "user"), "")
    return str(prompt)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
