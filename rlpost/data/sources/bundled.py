"""``bundled:NAME``: a small suite against forgetting, and rows to replay beside it.

Owns what is replayed for a suite that has nothing to train on: short answers about things that the
prompt itself says, which teach none of the suite's facts. Refuses to own suites and synthetic sets.
Invariant: no row to train on is asked in the suite of the same name.
"""

from rlpost.data.rows import Row, RowStream, SourceRequest, Split
from rlpost.data.sources.suites import read_suite
from rlpost.data.synthetic.catalog import PAIR_SETS
from rlpost.evaluation.suites.catalog import find_suite

_REPLAYED = "consistency"  # a set of pairs, of which the better answers are taken


def read_bundled(request: SourceRequest) -> RowStream:
    """Yield at most ``request.size`` rows of the suite ``request.locator``, or beside it.

    Rows are those of ``suite:NAME``, with the answer as ``completion`` where there is no worked
    solution, so that the loss of held-out rows can be taken. Of a suite that has nothing to train
    on, rows to train on have the columns ``prompt``, ``completion``, ``answer`` and ``kind``.

    Raises:
        UserError: there is no such suite.
    """
    suite = find_suite(request.locator, field=f"{request.field}: a bundled suite")
    if request.split is Split.HELDOUT or suite.training is not None:
        for row in read_suite(request):
            assert isinstance(row, Row)
            columns = {"completion": row.columns["answer"], **row.columns}
            yield Row(columns=columns, address=row.address)
        return
    for index, item in enumerate(PAIR_SETS[_REPLAYED].training(request.size, request.seed)):
        columns = {
            "prompt": item.prompt,
            "completion": item.chosen,
            "answer": item.chosen,
            "kind": item.kind,
        }
        yield Row(columns=columns, address=f"{request.name}[{index}]")
