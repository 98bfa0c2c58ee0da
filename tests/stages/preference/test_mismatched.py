"""A completion behind another row's prompt: by the rows alone, never by how they are drawn."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rlpost.data.example import Example
from rlpost.stages.preference.mismatched import Mismatched


def completion(prompt, answer):
    ids = np.array([*prompt, *answer], np.int32)
    return Example(ids=ids, trained=np.arange(len(ids)) >= len(prompt), address="a")


ROWS = [
    [completion([1, 2], [5])],
    [completion([1, 2], [6, 6])],
    [completion([3], [7, 7]), completion([3], [8])],
]


def partner(row, *, rows=ROWS, max_tokens=99):
    found = Mismatched(rows.__getitem__, num_rows=len(rows), max_tokens=max_tokens)(row)
    return [each.ids.tolist() for each in found]


def test_the_next_row_with_another_prompt_gives_its_completion():
    assert partner(0) == [[1, 2, 7, 7]]  # row 1 has the same prompt
    assert partner(1) == [[1, 2, 7, 7]]
    assert partner(2) == [[3, 5], [3, 5]]  # beginning anew; each side of a pair has one


def test_only_the_completion_is_trained_and_it_is_cut_to_fit():
    (found,) = Mismatched(ROWS.__getitem__, num_rows=3, max_tokens=3)(0)
    assert found.ids.tolist() == [1, 2, 7] and found.trained.tolist() == [False, False, True]


def test_rows_of_one_prompt_have_no_mismatch():
    assert partner(0, rows=ROWS[:2]) == []


def nearest(rows, row):
    """The definition, word by word."""
    prompts = [each[0].ids[: int(np.argmax(each[0].trained))].tolist() for each in rows]
    for distance in range(1, len(rows)):
        other = (row + distance) % len(rows)
        if prompts[other] != prompts[row]:
            return [[*prompts[row], *rows[other][0].ids[len(prompts[other]) :].tolist()]]
    return []


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.randoms())
def test_the_partner_is_the_next_row_of_another_prompt_whoever_is_asked_first(prompts, random):
    rows = [[completion([1, each], [9 + place])] for place, each in enumerate(prompts)]
    of_row = Mismatched(rows.__getitem__, num_rows=len(rows), max_tokens=9)
    order = list(range(len(rows)))
    random.shuffle(order)
    for row in order:
        assert [each.ids.tolist() for each in of_row(row)] == nearest(rows, row)


def test_a_long_run_of_one_prompt_is_walked_once():
    num_rows, read = 3000, []
    rows = [[completion([1], [9])]] * (num_rows - 1) + [[completion([2], [8])]]

    def examples(row):
        read.append(row)
        return rows[row]

    of_row = Mismatched(examples, num_rows=num_rows, max_tokens=9)
    for row in range(num_rows):
        assert of_row(row)
    assert len(read) < 4 * num_rows, "not a walk of the run for each of its rows"
    read.clear()
    full = Mismatched(examples, num_rows=num_rows, max_tokens=1)  # of which a prompt leaves nothing
    assert full(0) == [] and len(read) <= num_rows + 1
