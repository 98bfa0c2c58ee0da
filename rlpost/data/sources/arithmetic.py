"""The built-in task: products of two numbers from 2 to 12.

Owns the questions and their split. Uses no randomness: the rows are the same in every run.
Invariant: no unordered pair of operands is in both splits, so knowing 7 * 8 from training does
not answer a held-out 8 * 7.
"""

from rlpost.data.rows import Row, RowStream, SourceRequest, Split
from rlpost.errors import UserError

OPERANDS = range(2, 13)
# Every fourth pair in the order of products is held out, beginning with the fourth: both splits
# are equally hard (mean product 49.9 and 49.8).
_HELDOUT_STRIDE = 4
_HELDOUT_OFFSET = 3


def operand_pairs(split: Split) -> list[tuple[int, int]]:
    """Return the pairs ``(a, b)`` with ``a <= b`` of a split: 50 to train, 16 held out."""
    pairs = sorted(((a, b) for a in OPERANDS for b in OPERANDS if a <= b), key=_by_product)
    held_out = pairs[_HELDOUT_OFFSET::_HELDOUT_STRIDE]
    return held_out if split is Split.HELDOUT else [p for p in pairs if p not in held_out]


def _by_product(pair: tuple[int, int]) -> tuple[int, int]:
    return pair[0] * pair[1], pair[0]


def read_arithmetic(request: SourceRequest) -> RowStream:
    """Yield at most ``request.size`` questions with columns ``prompt`` and ``answer``.

    Both orders of a pair are asked. The seed does not matter.

    Raises:
        UserError: something follows ``arithmetic:``; the task has no variants.
    """
    if request.locator:
        raise UserError(
            f"{request.field}: {request.name!r} has a part after 'arithmetic', which takes none; "
            "write arithmetic"
        )
    questions = [
        q for a, b in operand_pairs(request.split) for q in dict.fromkeys([(a, b), (b, a)])
    ]
    # Every seventh question in turn, so that a small `size` still has easy and hard products.
    spread = [q for start in range(7) for q in questions[start::7]]
    for index, (a, b) in enumerate(spread[: request.size]):
        yield Row(
            columns={"prompt": f"What is {a} * {b}?", "answer": str(a * b)},
            address=f"{request.name}[{index}]",
        )
