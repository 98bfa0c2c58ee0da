"""``report.html`` of an evaluation: its tables, and every answer to be browsed.

Owns what the page holds. Refuses to own how pages are rendered (tracking/report/page.py).
Invariants: the page loads nothing from the network; text of models and data reaches it only through
escaping; where there are more answers than a page can hold, it says so.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rlpost.checkpoint.state import write_text
from rlpost.evaluation.answer import Answer
from rlpost.stages.evaluate.answers_file import AnswersFile
from rlpost.stages.evaluate.config import EvaluateConfig
from rlpost.stages.evaluate.table import Grid
from rlpost.stages.run_directory import RunDirectory
from rlpost.tracking.report.page import render_page
from rlpost.tracking.sample import evenly

MAX_ANSWERS = 4000
MAX_CHARACTERS = 4000  # of one prompt or response


def write_page(
    directory: RunDirectory, *, grids: Sequence[Grid], file: AnswersFile, config: EvaluateConfig
) -> None:
    """Write the page.

    Raises:
        OSError: it cannot be written.
    """
    every = [answer for answers in file.items.values() for answer in answers]
    shown = evenly(every, MAX_ANSWERS)
    page = render_page(
        "evaluation",
        data={
            "name": directory.root.name,
            "model": config.answered_by,
            "baseline": config.baseline.path,
            "grids": [asdict(grid) for grid in grids],
            "num_answers": len(every),
            "num_shown": len(shown),
            "config": directory.config.read_text(encoding="utf-8"),
        },
        page={"answers": [_shown(answer) for answer in shown]},
    )
    write_text(directory.report, page)


def _shown(answer: Answer) -> dict[str, Any]:
    return {
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
