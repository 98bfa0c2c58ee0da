"""``report.html`` of an evaluation: its tables, and every answer to be browsed.

Owns what the page holds. Refuses to own how pages are rendered (tracking/report/page.py).
Invariants: the page loads nothing from the network; text of models and data reaches it only through
escaping; where there are more answers than a page can hold, it says so.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rlpost.checkpoint.state import write_text
from rlpost.evaluation.answer import Answer
from rlpost.evaluation.difficulty import CLASSES, difficulty_class, pass_rate
from rlpost.stages.evaluate.answers_file import AnswersFile, ItemKey
from rlpost.stages.evaluate.config import EvaluateConfig
from rlpost.stages.evaluate.results import Result, Results
from rlpost.stages.evaluate.table import grids_of
from rlpost.stages.run_directory import RunDirectory
from rlpost.tracking.report.page import render_page
from rlpost.tracking.sample import evenly

MAX_ANSWERS = 4000
MAX_CHARACTERS = 4000  # of one prompt or response


def write_page(
    directory: RunDirectory, *, results: Results, file: AnswersFile, config: EvaluateConfig
) -> None:
    """Write the page.

    Raises:
        OSError: it cannot be written.
    """
    grids = grids_of(results)
    difficulties = [each for each in results.scores if not each.part and config.samples > 1]
    every = [answer for answers in file.items.values() for answer in answers]
    shown = evenly(every, MAX_ANSWERS)
    rates = {
        key: pass_rate([each.reward for each in answers]) for key, answers in file.items.items()
    }
    page = render_page(
        "evaluation",
        data={
            "name": directory.root.name,
            "model": config.answered_by,
            "baseline": config.compared_with,
            "histograms": [_bars(each) for each in difficulties],
            "grids": [asdict(grid) for grid in grids],
            "num_answers": len(every),
            "num_shown": len(shown),
            "config": directory.config.read_text(encoding="utf-8"),
        },
        page={
            "answers": [_shown(answer, rates) for answer in shown],
            "classes": CLASSES if config.samples > 1 else (),
        },
    )
    write_text(directory.report, page)


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


def _shown(answer: Answer, rates: Mapping[ItemKey, float | None]) -> dict[str, Any]:
    rate = rates[answer.model, answer.dataset, answer.uid]
    return {
        "rate": rate,
        "difficulty": "" if rate is None else difficulty_class(rate),
        "model": answer.model,
        "data": answer.dataset,
        "part": answer.part,
        "item": answer.uid,
        "sample": answer.sample,
        "prompt": answer.prompt[:MAX_CHARACTERS],
        "response": answer.response[:MAX_CHARACTERS],
        "reward": answer.reward,
        "error": answer.error,
        "tokens": answer.num_tokens,
        "finish": answer.finish_reason,
    }
