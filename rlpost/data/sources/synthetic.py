"""The sets of rlpost/data/synthetic as rows: ``pairs:NAME``, ``judged:NAME`` and ``steps:NAME``.

Owns the columns. Refuses to own items and their split. Held-out rows are the same for every seed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from rlpost.data.rows import Row, RowStream, SourceRequest, Split
from rlpost.data.synthetic.catalog import PAIR_SETS, STEP_SETS, SyntheticSet, find_set
from rlpost.data.synthetic.item import PairItem, StepsItem
from rlpost.evaluation.suites.item import Item


def read_pairs(request: SourceRequest) -> RowStream:
    """Yield at most ``request.size`` pairs of the set ``request.locator``.

    Columns: ``prompt``, ``chosen``, ``rejected``, ``kind`` (the part of the set), and what the
    verifier of a behaviour reads.

    Raises:
        UserError: there is no such set.
    """
    for index, item in enumerate(_pairs(request, what="a set of pairs")):
        columns = {"chosen": item.chosen, "rejected": item.rejected}
        yield _row(request, index, item, columns | dict(item.columns))


def read_judged(request: SourceRequest) -> RowStream:
    """Yield at most ``request.size`` judged answers, one of the two of each pair.

    In each kind of prompt, good and bad ones alternate. Columns: ``prompt``, ``completion``,
    ``label``, ``kind``, and what the verifier of a behaviour reads.

    Raises:
        UserError: there is no such set.
    """
    seen = Counter[str]()
    for index, item in enumerate(_pairs(request, what="a set of judged answers")):
        is_good = seen[item.kind] % 2 == 0
        seen[item.kind] += 1
        columns = {"completion": item.chosen if is_good else item.rejected, "label": is_good}
        yield _row(request, index, item, columns | dict(item.columns))


def read_steps(request: SourceRequest) -> RowStream:
    """Yield at most ``request.size`` solutions of the set ``request.locator``.

    Columns: ``prompt``, ``completions`` (the steps), ``labels`` and ``kind``.

    Raises:
        UserError: there is no such set.
    """
    found = find_set(STEP_SETS, request.locator, field=f"{request.field}: a set of steps")
    for index, item in enumerate(_items(found, request)):
        columns = {"completions": list(item.steps), "labels": list(item.labels)}
        yield _row(request, index, item, columns)


def _pairs(request: SourceRequest, *, what: str) -> Sequence[PairItem]:
    found = find_set(PAIR_SETS, request.locator, field=f"{request.field}: {what}")
    return _items(found, request)


def _items(found: SyntheticSet[Item], request: SourceRequest) -> Sequence[Item]:
    if request.split is Split.HELDOUT:
        return found.held_out()[: request.size]
    return found.training(request.size, request.seed)


def _row(
    request: SourceRequest, index: int, item: PairItem | StepsItem, columns: Mapping[str, object]
) -> Row:
    return Row(
        columns={"prompt": item.prompt, "kind": item.kind, **columns},
        address=f"{request.name}[{index}]",
    )
