"""Cuts a sequence that is too long after the last answer that fits.

Owns the place of the cut. Refuses to own whether rows are cut at all: what is longer than the bound
and is not cut here is an error or left out where rows are chosen (corpus/). Invariant: a cut takes
tokens from the right alone, and what is left ends with a trained end-of-turn token, so no answer
loses its end.
"""

from collections.abc import Sequence

import numpy as np

from rlpost.data.conversation.stops import Stops
from rlpost.data.example import Example
from rlpost.errors import DataError


def truncated(examples: Sequence[Example], max_tokens: int, *, stops: Stops) -> list[Example]:
    """Return the examples of one row, each up to its last answer that ends in ``max_tokens``.

    An example of which no answer fits is left out, if another one of the row has an answer.

    Raises:
        DataError: no answer of the row fits.
    """
    cut = [_cut(each, max_tokens, stops=stops) for each in examples]
    kept = [each for each in cut if each is not None]
    if kept:
        return kept
    shortest = min(len(each) for each in examples)
    raise DataError(
        f"{examples[0].address}: the row has {shortest} tokens, at most {max_tokens} fit, and not "
        "even its first trained answer fits with its end; raise what bounds it (data.max_tokens, "
        "a micro-batch or the model's context), shorten the row, or leave it out"
    )


def _cut(example: Example, max_tokens: int, *, stops: Stops) -> Example | None:
    if len(example) <= max_tokens:
        return example
    ends = np.flatnonzero(example.trained & np.isin(example.ids, [*stops.ids]))
    if not len(ends) or ends[0] >= max_tokens:
        return None
    size = int(ends[ends < max_tokens][-1]) + 1
    return Example(ids=example.ids[:size], trained=example.trained[:size], address=example.address)
