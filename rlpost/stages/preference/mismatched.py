"""Completions behind prompts that they do not answer, for KTO's reference point.

Owns which completion goes with which prompt. Refuses to own the reference point's formula
(algorithms/preference/kto.py). Invariant: the partner of a row is a row of its source, whatever
is drawn with it, so the order of rows, batches and packing do not change it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rlpost.data.conversation.preferences import shared_prompt
from rlpost.data.example import Example

Rows = Callable[[int], Sequence[Example]]  # the examples of a row


def mismatched(rows: Rows, row: int, *, num_rows: int, max_tokens: int) -> list[Example]:
    """Return the prompt of each example of a row with a completion of another row.

    The other row is the next one, beginning anew after the last, that has another prompt. What
    exceeds ``max_tokens`` is cut from the completion.

    Args:
        rows: returns the examples of a row.
        row: whose prompt is taken.
        num_rows: of the source.
        max_tokens: longest example.

    Returns:
        One example for each of the row; none where all rows have one prompt, or nothing fits.
    """
    own = rows(row)
    start = shared_prompt(own)
    prompt = own[0].ids[:start]
    for distance in range(1, num_rows):
        other = rows((row + distance) % num_rows)
        theirs = shared_prompt(other)
        if np.array_equal(other[0].ids[:theirs], prompt):
            continue
        joined = [
            _joined(mine, start, other[place % len(other)], theirs, max_tokens)
            for place, mine in enumerate(own)
        ]
        if all(each.trained.any() for each in joined):
            return joined
    return []


def _joined(mine: Example, start: int, other: Example, theirs: int, max_tokens: int) -> Example:
    ids = np.concatenate([mine.ids[:start], other.ids[theirs:]])[:max_tokens]
    trained = np.concatenate([mine.trained[:start], other.trained[theirs:]])[:max_tokens]
    return replace(mine, ids=ids, trained=trained)
