"""The suites of rlpost/evaluation as rows: ``suite:NAME``.

Owns the columns. Refuses to own items and their split (evaluation/suites/). Held-out rows are the
same for every seed.
"""

from rlpost.data.rows import Row, RowStream, SourceRequest, Split
from rlpost.errors import UserError
from rlpost.evaluation.suites.catalog import SUITES, find_suite


def read_suite(request: SourceRequest) -> RowStream:
    """Yield at most ``request.size`` rows of the suite ``request.locator``.

    Columns: ``prompt``, ``answer``, ``kind`` (the part of the suite), what its verifier reads
    beside, and ``completion`` where there is a worked solution: what is trained on, or what the
    loss of held-out rows is taken of.

    Raises:
        UserError: there is no such suite, or it has nothing to train on.
    """
    suite = find_suite(request.locator, field=f"{request.field}: a suite")
    if request.split is Split.HELDOUT:
        items = list(suite.held_out())[: request.size]
    elif suite.training is None:
        able = ", ".join(f"suite:{each.name}" for each in SUITES.values() if each.training)
        raise UserError(
            f"{request.field}: {request.name} is for evaluation only and has no rows to train on; "
            f"use {able}, or another source"
        )
    else:
        items = list(suite.training(request.size, request.seed))
    for index, item in enumerate(items):
        columns = {"prompt": item.prompt, "answer": item.answer, "kind": item.kind, **item.columns}
        if item.completion:
            columns["completion"] = item.completion
        yield Row(columns=columns, address=f"{request.name}[{index}]")
