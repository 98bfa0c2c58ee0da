"""The results of an evaluation as text for a terminal, and as rows for a page.

Owns the columns and the words. Refuses to own the numbers (results.py).
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from rlpost.evaluation.comparison import PairedDifference
from rlpost.evaluation.difficulty import CLASSES
from rlpost.evaluation.intervals import MeanEstimate
from rlpost.stages.evaluate.results import Result, Results

WIDTH = 400  # characters: no table is so wide, so none is wrapped
SAME_AS_MEAN = ("pass@1", "maj@1")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One table as text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def grids_of(results: Results) -> list[Grid]:
    """Return the tables: scores, and differences where two models were compared."""
    found = dict.fromkeys(name for each in results.scores for name in each.sheet.at)
    names = [name for name in found if name not in SAME_AS_MEAN]
    samples = results.scores[0].sheet.samples
    scores = Grid(
        title="Scores, with intervals of 95 %",
        header=(
            "model", "data", "items", f"mean@{samples}", *names, "cut off", "not judged",
        ),
        rows=tuple(_row(each, names) for each in results.scores),
    )  # fmt: skip
    grids = [scores, *_difficulty(results, samples)]
    if not results.differences:
        return grids
    differences = {(dataset,): each for dataset, each in results.differences.items()}
    return [*grids, differences_grid("Model minus baseline", ("data",), differences)]


def differences_grid(
    title: str, names: tuple[str, ...], rows: Mapping[tuple[str, ...], PairedDifference]
) -> Grid:
    """Return the table of differences; ``names`` are the columns of what they are found by."""
    return Grid(
        title=f"{title}, on the same items and seeds",
        header=(*names, "items", "difference", "p", "pairs not judged"),
        rows=tuple(
            (
                *key,
                str(each.num_items),
                f"{each.difference:+.3f}  [{each.low:+.3f}, {each.high:+.3f}]",
                f"{each.p_value:.2g}",
                str(each.num_unknown),
            )
            for key, each in rows.items()
        ),
    )


def _difficulty(results: Results, samples: int) -> list[Grid]:
    """Return how many items there are of each difficulty; nothing of single responses."""
    if samples < 2:
        return []
    rows = [each for each in results.scores if not each.part]
    return [
        Grid(
            title=f"Difficulty: items by the share of right ones among {samples} responses",
            header=("model", "data", *CLASSES),
            rows=tuple(
                (each.model, each.dataset, *map(str, each.difficulty.values())) for each in rows
            ),
        )
    ]


def as_text(grids: Sequence[Grid]) -> str:
    """Return the tables as plain text."""
    output = io.StringIO()
    console = Console(file=output, width=WIDTH)
    for grid in grids:
        table = Table(*grid.header, title=grid.title, title_justify="left", box=box.SIMPLE_HEAD)
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()).strip("\n")


def _row(result: Result, names: Sequence[str]) -> tuple[str, ...]:
    sheet = result.sheet
    return (
        result.model,
        f"  {result.part}" if result.part else result.dataset,
        str(sheet.num_items),
        estimate_text(sheet.mean),
        *(estimate_text(sheet.at.get(name)) for name in names),
        f"{sheet.truncated_frac:.1%}",
        str(sheet.num_missing),
    )


def estimate_text(estimate: MeanEstimate | None) -> str:
    """Return a mean with its interval, as tables show it."""
    if estimate is None:
        return "-"  # nothing was judged, or no verifier can tell what a response says
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.3f}"
    return f"{estimate.mean:.3f}  [{estimate.low:.3f}, {estimate.high:.3f}]"
