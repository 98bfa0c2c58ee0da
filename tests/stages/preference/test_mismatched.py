"""A completion behind another row's prompt: by the rows alone, never by how they are drawn."""

import numpy as np

from rlpost.data.example import Example
from rlpost.stages.preference.mismatched import mismatched


def completion(prompt, answer):
    ids = np.array([*prompt, *answer], np.int32)
    return Example(ids=ids, trained=np.arange(len(ids)) >= len(prompt), address="a")


ROWS = [
    [completion([1, 2], [5])],
    [completion([1, 2], [6, 6])],
    [completion([3], [7, 7]), completion([3], [8])],
]


def partner(row, *, rows=ROWS, max_tokens=99):
    found = mismatched(rows.__getitem__, row, num_rows=len(rows), max_tokens=max_tokens)
    return [each.ids.tolist() for each in found]


def test_the_next_row_with_another_prompt_gives_its_completion():
    assert partner(0) == [[1, 2, 7, 7]]  # row 1 has the same prompt
    assert partner(1) == [[1, 2, 7, 7]]
    assert partner(2) == [[3, 5], [3, 5]]  # beginning anew; each side of a pair has one


def test_only_the_completion_is_trained_and_it_is_cut_to_fit():
    (found,) = mismatched(ROWS.__getitem__, 0, num_rows=3, max_tokens=3)
    assert found.ids.tolist() == [1, 2, 7] and found.trained.tolist() == [False, False, True]


def test_rows_of_one_prompt_have_no_mismatch():
    assert partner(0, rows=ROWS[:2]) == []
