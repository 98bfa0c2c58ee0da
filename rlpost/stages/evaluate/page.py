"""The page of evaluations: tables, and every answer to be browsed, models side by side.

Owns what the page holds. Refuses to own how pages are rendered (tracking/report/page.py).
Invariants: the page loads nothing from the network; text of models and data reaches it only through
escaping; where there are more items than a page can hold, it says so; all answers to an item are on
the page, or none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rlpost.checkpoint.state import write_text
from rlpost.evaluation.answer import Answer
from rlpost.evaluation.difficulty import CLASSES, difficulty_class, pass_rate
from rlpost.stages.evaluate.answers_file import AnswersFile, ItemKey
from rlpost.stages.evaluate.config import EvaluateConfig
from rlpost.stages.evaluate.results import Result, Results
from rlpost.stages.evaluate.table import Grid, grids_of
from rlpost.stages.run_directory import RunDirectory
from rlpost.tracking.report.page import render_page
from rlpost.tracking.sample import evenly

MAX_ANSWERS = 4000
MAX_CHARACTERS = 4000  # of one prompt or response


def write_page(
    directory: RunDirectory, *, results: Results, file: AnswersFile, config: EvaluateConfig
) -> None:
    """Write ``report.html`` of one evaluation.

    Raises:
        OSError: it cannot be written.
    """
    compared = config.compared_with
    page = page_of(
        name=directory.root.name,
        told=f"Model {config.answered_by}{f', compared with {compared}' if compared else ''}.",
        grids=grids_of(results),
        scores=results.scores,
        items=file.items,
        config=directory.config.read_text(encoding="utf-8"),
    )
    write_text(directory.report, page)


def page_of(
    *,
    name: str,
    told: str,
    grids: Sequence[Grid],
    scores: Sequence[Result],
    items: Mapping[ItemKey, Sequence[Answer]],
    config: str,
) -> str:
    """Return the page.

    Args:
        name: its title.
        told: a sentence on the models.
        grids: the tables.
        scores: whose difficulties are drawn, if there are several responses per item.
        items: every answer, by model, data set and item.
        config: the settings as text.
    """
    several = scores[0].sheet.samples > 1
    models = list(dict.fromkeys(model for model, _, _ in items))
    asked = list(dict.fromkeys((data, uid) for _, data, uid in items))
    each = max(1, sum(map(len, items.values())) // max(1, len(asked)))
    shown = evenly(asked, max(1, MAX_ANSWERS // each))
    return render_page(
        "evaluation",
        data={
            "name": name,
            "told": told,
            "grids": [asdict(grid) for grid in grids],
            "histograms": [_bars(each) for each in scores if several and not each.part],
            "num_items": len(asked),
            "num_shown": len(shown),
            "models": models,
            "config": config,
        },
        page={
            "rows": [
                row
                for data, uid in shown
                for row in _rows({m: items.get((m, data, uid), ()) for m in models})
            ],
            "models": models,
            "classes": CLASSES if several else (),
        },
    )


def _bars(result: Result) -> dict[str, Any]:
    """Return a histogram, its bars in parts of the highest one."""
    most = max(1, *result.difficulty.values())
    return {
        "name": f"{result.model}, {result.dataset}",
        "bars": [
            {"label": label, "count": count, "height": round(100 * count / most)}
            for label, count in result.difficulty.items()
        ],
    }


def _rows(answers: Mapping[str, Sequence[Answer]]) -> list[dict[str, Any]]:
    """Return one row for each sample of an item, with the answers of all models."""
    first = next(own[0] for own in answers.values() if own)
    samples = sorted({each.sample for own in answers.values() for each in own})
    return [
        {
            "data": first.dataset,
            "part": first.part,
            "item": first.uid,
            "sample": sample,
            "prompt": first.prompt[:MAX_CHARACTERS],
            "answers": [
                next((_shown(each, own) for each in own if each.sample == sample), None)
                for own in answers.values()
            ],
        }
        for sample in samples
    ]


def _shown(answer: Answer, item: Sequence[Answer]) -> dict[str, Any]:
    rate = pass_rate([each.reward for each in item])
    return {
        "response": answer.response[:MAX_CHARACTERS],
        "reward": answer.reward,
        "rate": rate,
        "difficulty": "" if rate is None else difficulty_class(rate),
        "error": answer.error,
        "tokens": answer.num_tokens,
        "finish": answer.finish_reason,
    }
