"""Columns are checked for shape and dtype; units and items say what they need."""

import numpy as np
import pytest
from packed_groups import pack_into, random_groups, with_columns

from rlpost.training.packing.units import Item, Unit

BATCH = pack_into(*random_groups()).batches[0][0]


@pytest.mark.parametrize(("name", "length"), [("x_R", "target_R"), ("x_U", "number_U")])
def test_a_column_has_one_number_per_token_or_unit(name, length):
    right = np.zeros(len(getattr(BATCH, length)), dtype=np.float32)
    assert with_columns(BATCH, **{name: right}).columns[name] is right
    for wrong in (right[1:], right.astype(np.float64), right.astype(np.int32)):
        with pytest.raises(AssertionError, match=name):
            with_columns(BATCH, **{name: wrong})
    with_columns(BATCH, **{name: right.astype(bool)})
    with_columns(BATCH, **{name: right.astype(np.int64)})


def test_a_column_says_what_it_runs_over():
    with pytest.raises(KeyError):
        with_columns(BATCH, weight=np.zeros(1, dtype=np.float32))


def test_a_sequence_is_cut_where_the_first_scored_token_is():
    scored = np.array([False, False, True, False, True])
    unit = Unit.of([1, 2, 3, 4, 5], scored=scored, number=7)
    (item,) = unit.items
    assert (unit.prompt, item.ids, item.number) == ((1, 2), (3, 4, 5), 7)
    assert item.scored.tolist() == [True, False, True]


def test_what_cannot_be_trained_on_is_refused():
    with pytest.raises(AssertionError):
        Unit.of([1, 2], scored=np.array([True, True]), number=0)  # nothing predicts the first
    with pytest.raises(AssertionError, match="no token is scored"):
        Item(number=3, ids=(1, 2), scored=np.zeros(2, dtype=bool))
    with pytest.raises(AssertionError, match="a prompt needs a token"):
        Unit.sharing([], {0: [1]})
    with pytest.raises(AssertionError, match="without items"):
        Unit.sharing([1], {})
