"""A greedy soup: candidates are merged, evaluated in this process, and the best is written.

Owns the candidates' files and how they are scored. Refuses to own the choice (merging/greedy.py)
and the evaluation (stages/evaluate/). Invariant: one candidate is on the disk at a time.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpost.checkpoint.state import write_text
from rlpost.config.compose import compose_stage
from rlpost.config.explain import COMPOSITION_ERRORS, explain
from rlpost.config.quoting import quoted
from rlpost.errors import RunFailed, UserError
from rlpost.merging.greedy import GreedySoup, greedy_soup
from rlpost.stages.driver import RunOutcome
from rlpost.stages.merge.config import MergeConfig
from rlpost.stages.merge.several import SeveralPlan, prepare_mean
from rlpost.stages.merge.table import REPORT
from rlpost.stages.registry import STAGES
from rlpost.stages.run_directory import RunDirectory
from rlpost.tracking.files.jsonl import read_metrics
from rlpost.tracking.tracker import RunStatus

_SCORE = re.compile(r"val-core/[^/]+/acc/mean@\d+")
_SUITE = re.compile(r"val-core/[^/]+/missing")  # which also a suite without a score has

Score = Callable[[Path, Path], float]  # model directory, directory for the evaluation -> score


@dataclass(frozen=True, kw_only=True)
class SoupPlan:
    """A greedy soup that passed every check that needs no evaluation."""

    mean_of: Callable[[Sequence[str]], SeveralPlan]
    models: tuple[str, ...]
    score: Score
    size_bytes: int  # of the result and of one candidate

    def write(self, scratch: Path, *, directory: RunDirectory, settings_hash: str) -> str:
        """Choose, and write the result into ``scratch``; return what to tell the person.

        Raises:
            RunFailed: a candidate could not be scored.
        """
        candidate = scratch.with_name(f"{scratch.name}-candidate")
        try:
            soup = greedy_soup(self.models, lambda models: self._scored(models, candidate))
        finally:
            shutil.rmtree(candidate, ignore_errors=True)
        told = self.mean_of(soup.kept).write(
            scratch, directory=directory, settings_hash=settings_hash
        )
        report = directory.root / REPORT
        record = {**json.loads(report.read_text()), "method": "greedy_soup", **_record(soup)}
        write_text(report, json.dumps(record, indent=1) + "\n")
        return f"{_lines(soup)}\n{told}"

    def _scored(self, models: tuple[str, ...], candidate: Path) -> float:
        shutil.rmtree(candidate, ignore_errors=True)
        model = candidate / "model"
        model.mkdir(parents=True)
        self.mean_of(models).write_model(model)
        return self.score(model, candidate)


def prepare_soup(cfg: MergeConfig) -> SoupPlan:
    """Check everything that can be checked before a weight is read.

    Raises:
        UserError: the models cannot be merged, or not be evaluated so.
    """
    models = tuple(cfg.merge.models)
    whole = prepare_mean(cfg, models)
    options = _without_place(cfg.merge.evaluate)
    stage = STAGES["evaluate"]
    place = RunDirectory.of(cfg.run)
    evaluate, _ = _composed([*options, f"model.path={quoted(str(whole.start.path))}"])
    stage.part("plan")(evaluate, directory=place)
    return SoupPlan(
        mean_of=lambda some: prepare_mean(cfg, some),
        models=models,
        score=lambda model, place: evaluated(model, place, options=options),
        size_bytes=2 * whole.size_bytes,
    )


def _without_place(options: Sequence[str]) -> list[str]:
    own = ("run.", "model.", "baseline.", "resume")
    for each in options:
        if each.lstrip("+~").startswith(own):
            raise UserError(
                f"merge.evaluate: {each!r:.100} is set for each candidate; leave it out, and say "
                "what is asked, for example suites=[general]"
            )
    return [*options, "tracking.report=false", "tracking.wandb=disabled"]


def evaluated(model: Path, place: Path, *, options: Sequence[str]) -> float:
    """Return the mean score of a model over what ``options`` of ``rlpost evaluate`` ask it.

    Raises:
        RunFailed: there is no score.
        KeyboardInterrupt: somebody interrupted it; the answers so far belong to a candidate, which
            is not kept.
    """
    words = [f"model.path={quoted(str(model))}", f"run.dir={quoted(str(place))}", "run.name=score"]
    cfg, resolved = _composed([*options, *words])
    stage = STAGES["evaluate"]
    outcome = stage.part("drive")(stage, cfg, resolved)
    require_answers(outcome)
    row = (read_metrics(RunDirectory.of(cfg.run).metrics) or [{}])[-1]
    return mean_score(row, message=outcome.message)


def mean_score(row: Mapping[str, float | None], *, message: str) -> float:
    """Return the mean score of all suites.

    Raises:
        RunFailed: one has no score; a mean of the others would not be comparable.
    """
    scores = [value for name, value in row.items() if _SCORE.fullmatch(name) and value is not None]
    suites = [name for name in row if _SUITE.fullmatch(name)]
    if not scores or len(scores) < len(suites):
        raise RunFailed(f"a suite gave no score of a candidate of the soup: {message}")
    return sum(scores) / len(scores)


def require_answers(outcome: RunOutcome) -> None:
    """Check how the evaluation of a candidate ended.

    Raises:
        RunFailed: it failed.
        KeyboardInterrupt: somebody interrupted it.
    """
    if outcome.status is RunStatus.interrupted:
        raise KeyboardInterrupt
    if outcome.status is not RunStatus.done:
        raise RunFailed(f"a candidate of the soup could not be evaluated: {outcome.message}")


def _composed(options: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    try:
        return compose_stage(options, stage="evaluate")
    except COMPOSITION_ERRORS as error:
        raise UserError(f"merge.evaluate: {explain(error, stage='evaluate')}") from error


def _record(soup: GreedySoup) -> dict[str, object]:
    return {
        "kept": list(soup.kept),
        "score": soup.score,
        "trials": [
            {"models": list(each.models), "score": each.score, "kept": each.kept}
            for each in soup.trials
        ],
    }


def _lines(soup: GreedySoup) -> str:
    lines = [
        f"{each.score:.4f}  {' + '.join(each.models)}{'' if each.kept else '  (left out)'}"
        for each in soup.trials
    ]
    return "\n".join(["score of each mean:", *lines, f"kept: {', '.join(soup.kept)}"])
