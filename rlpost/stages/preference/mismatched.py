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


class Mismatched:
    """Gives the prompt of each example of a row with a completion of another row.

    The other row is the next one, beginning anew after the last, that has another prompt. What
    exceeds ``max_tokens`` is cut from the completion. How far that row is away is remembered for
    every row on the way to it, so that all rows together are looked at about twice.

    Args:
        rows: returns the examples of a row.
        num_rows: of the source.
        max_tokens: longest example.

    Example::

        of_row = Mismatched(corpus.examples, num_rows=len(corpus), max_tokens=512)
        of_row(7)  # one example for each of row 7
    """

    def __init__(self, rows: Rows, *, num_rows: int, max_tokens: int) -> None:
        self._rows = rows
        self._num_rows = num_rows
        self._max_tokens = max_tokens
        self._ahead_N = np.zeros(num_rows, np.int64)  # distance to another prompt; 0: not known

    def __call__(self, row: int) -> list[Example]:
        """Return one example for each of the row; none where all rows have one prompt, or nothing
        fits.
        """
        own = self._rows(row)
        start = shared_prompt(own)
        distance = self._ahead(row)
        while start < self._max_tokens and distance < self._num_rows:
            place = (row + distance) % self._num_rows
            other = self._rows(place)
            theirs = shared_prompt(other)
            if np.array_equal(other[0].ids[:theirs], own[0].ids[:start]):
                distance += self._ahead(place)
                continue
            joined = [
                _joined(mine, start, other[index % len(other)], theirs, self._max_tokens)
                for index, mine in enumerate(own)
            ]
            if all(each.trained.any() for each in joined):
                return joined
            distance += 1
        return []

    def _ahead(self, row: int) -> int:
        """Return how many rows ahead the next other prompt is; ``num_rows`` where there is none."""
        if not self._ahead_N[row]:
            prompt, distance = self._prompt(row), 1
            while distance < self._num_rows and self._prompt(row + distance) == prompt:
                distance += 1
            same = (row + np.arange(distance)) % self._num_rows
            is_end = distance < self._num_rows
            self._ahead_N[same] = distance - np.arange(distance) if is_end else self._num_rows
        return int(self._ahead_N[row])

    def _prompt(self, row: int) -> bytes:
        examples = self._rows(row % self._num_rows)
        return examples[0].ids[: shared_prompt(examples)].tobytes()


def _joined(mine: Example, start: int, other: Example, theirs: int, max_tokens: int) -> Example:
    ids = np.concatenate([mine.ids[:start], other.ids[theirs:]])[:max_tokens]
    trained = np.concatenate([mine.trained[:start], other.trained[theirs:]])[:max_tokens]
    return replace(mine, ids=ids, trained=trained)
