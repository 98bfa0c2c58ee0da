"""Evaluations side by side: scores, paired differences from the first, and all answers.

Owns the reading of what evaluations wrote, and the comparison of more than two models. Refuses to
own the arithmetic (evaluation/) and the page's form (page.py). Invariant: two models are compared
only on items of which both were asked the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from rlpost.checkpoint.state import write_text
from rlpost.errors import DataError, UserError
from rlpost.evaluation.answer import Answer
from rlpost.evaluation.comparison import ByItem, PairedDifference, aligned, compare
from rlpost.stages.evaluate.answers_file import AnswersFile, ItemKey
from rlpost.stages.evaluate.page import page_of
from rlpost.stages.evaluate.plan import BASELINE
from rlpost.stages.evaluate.results import Results, result_of
from rlpost.stages.evaluate.table import Grid, differences_grid, grids_of
from rlpost.stages.run_directory import RunDirectory

_RULERS = ("temperature", "max_tokens", "seed")  # what changes a score beside the model


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The answers of one evaluation, by model, data set and item."""

    name: str
    settings: Mapping[str, Any]
    items: Mapping[ItemKey, tuple[Answer, ...]]

    @classmethod
    def read(cls, root: Path) -> "Evaluated":
        """Read a run; its models are called as the run is.

        Raises:
            UserError, DataError: it is no evaluation, or its files are damaged.
        """
        run = RunDirectory(root=root)
        if not run.evaluation.is_file():
            raise UserError(f"{root} is no evaluation: it has no {run.evaluation.name}")
        settings = _settings(run.config)
        name = root.resolve().name
        file = AnswersFile(run.evaluation, samples=int(settings.get("samples", 1)))
        called = {BASELINE: f"{name} {BASELINE}"}
        items = {
            (called.get(role, name), data, uid): tuple(
                replace(each, model=called.get(role, name)) for each in answers
            )
            for (role, data, uid), answers in file.items.items()
        }
        return cls(name=name, settings=settings, items=items)


def write_side_by_side(path: Path, runs: Sequence[Path]) -> list[Grid]:
    """Write the page of several evaluations and return its tables.

    Raises:
        UserError, DataError: a run is no evaluation, or they asked different things.
        OSError: the page cannot be written.
    """
    read = [Evaluated.read(each) for each in runs]
    names = [each.name for each in read]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two evaluations are called {twice}; rename one of the directories")
    first = read[0].settings
    samples = {int(each.settings.get("samples", 1)) for each in read}
    if len(samples) > 1:
        raise UserError(
            f"the evaluations have {sorted(samples)} responses per item, so they cannot be paired; "
            "evaluate with the same samples=N"
        )
    items = {key: answers for each in read for key, answers in each.items.items()}
    _require_same_prompts(items)
    results = _results(items, samples=samples.pop(), ks=list(first.get("k") or []))
    grids = [*grids_of(results), *_differences(items, samples=results.scores[0].sheet.samples)]
    differing = [n for n in _RULERS if len({str(e.settings.get(n)) for e in read}) > 1]
    caution = f" They differ in {', '.join(differing)}, which changes scores." if differing else ""
    page = page_of(
        name=f"{len(read)} evaluations",
        told=f"Differences are from {read[0].name}.{caution}",
        grids=grids,
        scores=results.scores,
        items=items,
        config=yaml.safe_dump({each.name: dict(each.settings) for each in read}, sort_keys=False),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return grids


def _settings(file: Path) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{file} holds no settings; evaluate again, under another run.name")
    return found


def _places(items: Mapping[ItemKey, Any]) -> dict[tuple[str, str], None]:
    return dict.fromkeys((model, data) for model, data, _ in items)


def _results(
    items: Mapping[ItemKey, tuple[Answer, ...]], *, samples: int, ks: Sequence[int]
) -> Results:
    if not items:
        raise UserError("none of the evaluations has an answer yet; run their commands again")
    asked = {data: _asked(items, data) for _, data in _places(items)}
    scores = [
        result_of(
            *(model, data, ""),
            [items.get((model, data, uid), ()) for uid in asked[data]],
            samples=samples,
            ks=ks,
        )
        for model, data in _places(items)
    ]
    return Results(scores=tuple(scores), differences={})


def _asked(items: Mapping[ItemKey, Any], data: str) -> list[str]:
    return sorted({uid for _, name, uid in items if name == data})


def _differences(items: Mapping[ItemKey, tuple[Answer, ...]], *, samples: int) -> list[Grid]:
    """Return the table of every model's difference from the first one that has the data."""
    rows: dict[tuple[str, ...], PairedDifference] = {}
    for data in dict.fromkeys(name for _, name in _places(items)):
        models: dict[str, ByItem] = {
            model: {
                uid: [each.reward for each in answers]
                for (own, given, uid), answers in items.items()
                if (own, given) == (model, data)
            }
            for model, name in _places(items)
            if name == data
        }
        (first, before), *others = aligned(models, samples=samples).items()
        for model, after in others:
            difference = compare(before, after)
            if difference is not None:
                rows[data, f"{model} minus {first}"] = difference
    return [differences_grid("Differences", ("data", "models"), rows)] if rows else []


def _require_same_prompts(items: Mapping[ItemKey, tuple[Answer, ...]]) -> None:
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    for (model, data, uid), answers in items.items():
        asked, prompt = seen.setdefault((data, uid), (model, answers[0].prompt))
        if prompt != answers[0].prompt:
            raise UserError(
                f"{asked} and {model} were asked different things as item {uid} of {data}; "
                "evaluate both on the same data"
            )
