"""``report.html`` of a pipeline: its stages, gates and scores, with links to what they left.

Owns what the page holds. Refuses to own how pages are rendered (tracking/report/page.py) and the
numbers (gates.py, scores.py). Invariant: the page is made of what is recorded, so it can be written
at any time, and tells of a stage that is still under way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlpost.checkpoint.state import write_text
from rlpost.evaluation.intervals import estimate_mean
from rlpost.stages.evaluate.table import estimate_text
from rlpost.stages.pipeline.lineage import SCORES, STAGES, Lineage
from rlpost.stages.pipeline.overrides import group_name
from rlpost.stages.pipeline.plan import PipelinePlan
from rlpost.stages.pipeline.scores import values_of
from rlpost.stages.run_directory import RunDirectory
from rlpost.tracking.report.page import render_page

Cell = str | tuple[str, str]  # text, or text and the address that it links to


@dataclass(frozen=True, kw_only=True)
class _Grid:
    title: str
    help: str
    header: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]


def write_page(plan: PipelinePlan, lineage: Lineage) -> None:
    """Write the page.

    Raises:
        OSError: it cannot be written.
    """
    tree = lineage.tree
    stages = lineage.attempts([each.spec.id for each in plan.stages])
    grids = (_stages(plan, stages), _gates(stages), _scores(plan, tree))
    published = tree.get("published")
    page = render_page(
        "pipeline",
        data={
            "name": plan.places.root.name,
            "base": plan.spec.base,
            "ended": ""
            if published is None
            else f"Its result is that of {published['stands_for']}, in export/.",
            "grids": [asdict(each) for each in grids],
            "file": plan.places.copy.read_text(encoding="utf-8"),
        },
    )
    write_text(plan.places.report, page)


def _stages(plan: PipelinePlan, stages: Mapping[str, Any]) -> _Grid:
    return _Grid(
        title="Stages",
        help="In the order in which they were run; a name with a number is a later attempt.",
        header=("stage", "command", "made of", "how it ended", "it measured", "result"),
        rows=[
            (
                _linked(plan, name, f"{STAGES}/{name}"),
                f"rlpost {each['recipe']['command']}",
                ", ".join(each["recipe"]["inputs"]),
                _ended(name, each),
                ", ".join(f"{key} {value:.4g}" for key, value in each.get("measured", {}).items()),
                each["result"]["hash"] if "result" in each else "",
            )
            for name, each in stages.items()
        ],
    )


def _ended(name: str, record: Mapping[str, Any]) -> str:
    outcome = record.get("outcome", "under way")
    stands_for = record.get("stands_for", name)
    return outcome if stands_for == name else f"{outcome}: {stands_for} takes its place"


def _gates(stages: Mapping[str, Any]) -> _Grid:
    rows = [each for record in stages.values() for each in record.get("gates", ())]
    return _Grid(
        title="Gates",
        help="The interval is of the left side minus the right one, by the paired bootstrap.",
        header=("stage", "attempt", "gate", "left", "right", "interval", "says"),
        rows=[
            (
                each["stage"],
                str(each["attempt"]),
                each["gate"],
                *(_number(each[side]) for side in ("left", "right")),
                "" if each["low"] is None else f"{each['low']:+.4g} to {each['high']:+.4g}",
                each["verdict"],
            )
            for each in rows
        ],
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _scores(plan: PipelinePlan, tree: Mapping[str, Any]) -> _Grid:
    done = {name for name, each in tree[SCORES].items() if each["state"] == "done"}
    models = dict.fromkeys(name.partition("/")[0] for name in tree[SCORES])
    rows: list[tuple[Cell, ...]] = []
    for model in models:
        for group in plan.groups:
            name = f"{model}/{group_name(group)}"
            for suite in group if name in done else ():
                values = values_of(plan.places, model, suite, plan.groups)
                score = estimate_text(estimate_mean(list(values.values())))
                link = _linked(plan, suite.name, f"{SCORES}/{name}")
                rows.append((model, link, suite.metric, str(len(values)), score))
    return _Grid(
        title="Scores",
        help="Of every model that a gate looked at; intervals of 95 % of each model alone.",
        header=("model", "suite", "metric", "items", "score"),
        rows=rows,
    )


def _linked(plan: PipelinePlan, text: str, run: str) -> Cell:
    """Return ``text``, with a link to the page of a run where it has one."""
    report = RunDirectory(root=plan.places.root / run).report
    return (text, f"{run}/{report.name}") if report.exists() else text
