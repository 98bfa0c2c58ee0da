"""The comparison of several runs: settings, final numbers and curves, read from their files.

Owns which runs a path stands for, what differs between them and their ranking. Refuses to own
the layout (templates/) and the charts (charts.py). Invariants: a run that failed, or has not
begun, is listed like any other; a missing number ranks last and is never 0; a damaged file gives
a note on the page and does not prevent it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from rlpost.control.result_metrics import KINDS, kind_of, lowest_is_best
from rlpost.errors import UserError
from rlpost.tracking.curves.table import STAGE_SECTIONS
from rlpost.tracking.files.jsonl import Row
from rlpost.tracking.files.sweep_record import MemberState, read_members
from rlpost.tracking.heldout import is_graded
from rlpost.tracking.report.charts import panels_with_curves
from rlpost.tracking.report.report_data import columns, planned_steps, rows_of, thin

_MAX_NUMBERS = 400_000  # on the page, over all curves; about 3 MB
_MAX_POINTS = 800  # per curve
_OF_TRAINING = {
    "critic/score/mean": "reward",
    "critic/rewards/mean": "reward",
    **{f"{stage}/loss": "loss" for stage in STAGE_SECTIONS},
}
_TRAINING_RULERS = (
    "rollout.temperature",
    "rollout.max_tokens",
    "data",
    "verifier",
    "verifiers",
    "rewards",
    "reward_models",
)
_HELDOUT_RULERS = (
    "evaluation.temperature",
    "rollout.max_tokens",
    "data.heldout",
    "data.heldout_size",
    "verifier",
    "verifiers",
    "rewards",
)
_LOSS_RULERS = ("loss", "data.train_on", "model.path")  # with the model, its tokens differ
_OF_A_RUN = ("run.", "tracking.", "resume")  # settings without an effect on the result


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run, for its row in the ranking and its curves."""

    name: str
    state: str
    note: str = ""  # why it did not end well
    report: str | None = None  # report.html, as a path
    settings: Mapping[str, str]
    steps: list[int]
    metrics: dict[str, list[float | None]]
    final: dict[str, float]  # metric -> its last finite value
    graded: bool  # held-out rewards are not only 0 and 1
    last_step: int | None
    planned: int | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs, the best first."""

    title: str
    runs: list[RunSummary]
    metric: str | None  # which ranks them; None: nothing was measured
    lowest_first: bool
    differing: list[str]  # settings that differ between the runs
    cautions: list[str]  # why the ranking may be misleading
    names: list[str]  # of all metrics
    charts: list[dict[str, Any]]
    problems: list[str]


def compare(
    paths: Sequence[Path], *, metric: str | None = None, lowest_first: bool | None = None
) -> Comparison:
    """Read the runs that ``paths`` stand for: run directories, or sweeps for their members.

    ``metric`` ranks them; without it, the held-out result, else the reward or the loss.
    ``lowest_first`` is by the name of the metric where it is None.

    Raises:
        UserError: a path is neither, or no run has ``metric``.
    """
    problems: list[str] = []
    runs = _different([run for path in paths for run in _runs_at(path, problems)])
    names = sorted({name for run in runs for name in run.metrics})
    if metric is not None and metric not in names:
        known = ", ".join(name for name in names if "/" in name)
        raise UserError(
            f"--metric: no run has {metric!r}; they have: {known or 'no metric at all'}"
        )
    ranking = metric or _usual_metric(runs)
    if lowest_first is None:
        lowest_first = bool(ranking and lowest_is_best(ranking))
    graded = any(run.graded for run in runs)
    differing = _differing(runs)
    ranked = sorted(runs, key=lambda run: _rank(run, ranking, lowest_first))
    return Comparison(
        title=paths[0].resolve().name if len(paths) == 1 else f"{len(runs)} runs",
        runs=[_thinner(run, len(runs)) for run in ranked],
        metric=ranking,
        lowest_first=lowest_first,
        differing=differing,
        cautions=cautions(ranking, differing),
        names=names,
        charts=_charts(names, graded=graded),
        problems=problems,
    )


def cautions(metric: str | None, differing: Sequence[str]) -> list[str]:
    """Return why a ranking by ``metric`` of runs with these differences may be misleading."""
    if metric is None:
        return []
    heldout = kind_of(metric) is not None
    if not heldout and metric not in _OF_TRAINING:
        return []
    found = []
    if not heldout:
        found.append(
            f"{metric} is the {_OF_TRAINING[metric]} of the last training batch, not of held-out "
            "data: it moves with that batch; set data.heldout=FILE to rank by what was not trained "
            "on"
        )
    rulers = [*(_HELDOUT_RULERS if heldout else _TRAINING_RULERS)]
    if lowest_is_best(metric):
        rulers += _LOSS_RULERS
    changed = [key for key in differing if _is_below(key, rulers)]
    if changed:
        found.append(
            f"the runs differ in {', '.join(changed)}, which changes what {metric} measures: a "
            "better value need not be a better model"
        )
    return found


def _is_below(setting: str, rulers: Sequence[str]) -> bool:
    """Whether ``setting`` is one of ``rulers``, which change how runs are measured."""
    return any(setting == ruler or setting.startswith(f"{ruler}.") for ruler in rulers)


def _runs_at(path: Path, problems: list[str]) -> list[RunSummary]:
    if (path / "members").is_dir():
        found = []
        for member in read_members(path):
            beside = path.parent / member.name
            root = beside if beside.exists() else Path(member.run_dir)
            run = _summary(root, member.name, problems)
            named = dict(each.split("=", 1) for each in member.overrides if "=" in each)
            found.append(
                replace(
                    run,
                    state=member.state.value,
                    note=member.message,
                    settings=run.settings or {k.lstrip("+"): v for k, v in named.items()},
                )
            )
        return found
    if not any((path / name).exists() for name in ("metrics.jsonl", "config.yaml")):
        raise UserError(
            f"{path} is neither a run (no metrics.jsonl, no config.yaml) nor a sweep (no "
            "members/); give directories such as runs/quickstart or runs/sweep-..."
        )
    return [_summary(path, path.resolve().name, problems)]


def _summary(root: Path, name: str, problems: list[str]) -> RunSummary:
    rows = rows_of(root / "metrics.jsonl", problems)
    metrics = columns(rows)
    config_path = root / "config.yaml"
    config = config_path.read_text(encoding="utf-8") if config_path.exists() else ""
    last = rows[-1]["step"] if rows else None
    planned = planned_steps(config)
    done = last is not None and planned is not None and last >= planned
    begun = MemberState.done.value if done else "incomplete"
    page = root / "report.html"
    return RunSummary(
        name=name,
        state=begun if rows else MemberState.waiting.value,
        report=str(page.resolve()) if page.exists() else None,
        settings=_settings(config, root, problems),
        steps=[row["step"] for row in rows],
        metrics=metrics,
        final={
            name: [value for value in values if value is not None][-1]
            for name, values in metrics.items()
        },
        graded=any(map(is_graded, rows)),
        last_step=last,
        planned=planned,
    )


def _settings(config: str, root: Path, problems: list[str]) -> dict[str, str]:
    try:
        tree = yaml.safe_load(config) or {}
    except yaml.YAMLError as error:
        problems.append(f"{root / 'config.yaml'}: {error}")
        return {}
    flat: dict[str, str] = {}

    def walk(node: Any, prefix: str) -> None:
        if isinstance(node, Mapping) and node:
            for key, value in node.items():
                walk(value, f"{prefix}.{key}" if prefix else str(key))
        else:
            flat[prefix] = str(node)

    walk(tree, "")
    return {key: value for key, value in flat.items() if key and not key.startswith(_OF_A_RUN)}


def _different(runs: list[RunSummary]) -> list[RunSummary]:
    """Number the names that occur more than once, in runs of different directories."""
    counts, seen = Counter(run.name for run in runs), Counter[str]()
    named = []
    for run in runs:
        seen[run.name] += 1
        again = f" ({seen[run.name]})" if counts[run.name] > 1 else ""
        named.append(replace(run, name=run.name + again))
    return named


def _usual_metric(runs: Sequence[RunSummary]) -> str | None:
    """Return the held-out result that most runs have, else what they train on, if any."""
    counts = Counter(n for run in runs for n in run.final if kind_of(n) or n in _OF_TRAINING)
    kinds = {name: kind_of(name) for name in counts}

    def order(name: str) -> tuple[bool, int, int, str]:
        kind = kinds[name]
        return kind is not None, counts[name], -KINDS.index(kind) if kind else 0, name

    return max(counts, key=order, default=None)


def _rank(run: RunSummary, metric: str | None, lowest_first: bool) -> tuple[bool, float]:
    value = run.final.get(metric) if metric else None
    if value is None:
        return (True, 0.0)
    return (False, value if lowest_first else -value)


def _differing(runs: Sequence[RunSummary]) -> list[str]:
    known = [run.settings for run in runs if run.settings]
    keys = sorted({key for settings in known for key in settings})
    return [key for key in keys if len({s[key] for s in known if key in s}) > 1]


def _charts(names: list[str], *, graded: bool) -> list[dict[str, Any]]:
    """Return one chart per metric, in the report's order; bars of several runs cannot be read."""
    charts: list[dict[str, Any]] = []
    for _, panel, curves in panels_with_curves(names, graded=graded):
        for curve in [] if panel.stacked else curves:
            title = panel.title if len(curves) == 1 else f"{panel.title}: {curve.label}"
            charts.append(
                {
                    "name": f"c{len(charts)}",
                    "title": title,
                    "unit": panel.unit,
                    # Without a band, because the bands of several runs would hide each other.
                    "help": panel.help.partition(";")[0] + "." if panel.band else panel.help,
                    "metric": curve.metric,
                    "range01": panel.range01,
                    "log_scale": panel.log_scale,
                    "wide": panel.wide and len(curves) == 1,
                }
            )
    return charts


def _thinner(run: RunSummary, num_runs: int) -> RunSummary:
    """Return ``run`` thinned to its share of the page's numbers."""
    budget = _MAX_NUMBERS // (num_runs * max(1, len(run.metrics)))
    points = max(20, min(_MAX_POINTS, budget))
    rows: list[Row] = [
        {"step": step, **{name: values[i] for name, values in run.metrics.items()}}
        for i, step in enumerate(run.steps)
    ]
    kept = thin(rows, max_points=points)
    return replace(run, steps=[row["step"] for row in kept], metrics=columns(kept))
