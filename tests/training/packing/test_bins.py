"""Bin packing laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.training.packing.bins import best_fit_decreasing, distribute, spread

sizes_lists = st.lists(st.integers(1, 20), max_size=30)


def flat(bins):
    return sorted(index for indices in bins for index in indices)


def test_best_fit_by_hand():
    # 6 | 5 + 4 | 3: 4 fits best beside 5 (1 left), 3 beside 6
    assert best_fit_decreasing([3, 5, 6, 4], capacity=10) == [[2, 3], [1, 0]]


@given(sizes=sizes_lists)
def test_best_fit_places_everything_once_within_capacity(sizes):
    bins = best_fit_decreasing(sizes, capacity=20)
    assert flat(bins) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in indices) <= 20 for indices in bins)
    # No two bins could be one: what "fewest the heuristic finds" promises at least.
    loads = sorted(sum(sizes[i] for i in indices) for indices in bins)
    assert len(loads) < 2 or loads[0] + loads[1] > 20
    assert bins == best_fit_decreasing(sizes, capacity=20)


def test_best_fit_refuses_an_item_that_fits_nowhere():
    with pytest.raises(AssertionError):
        best_fit_decreasing([21], capacity=20)


@given(sizes=sizes_lists, num_bins=st.integers(1, 6))
def test_spread_evens_the_load(sizes, num_bins):
    bins = spread(sizes, num_bins=num_bins, capacity=10**6)
    assert bins is not None
    assert flat(bins) == list(range(len(sizes)))
    loads = [sum(sizes[i] for i in indices) for indices in bins]
    assert max(loads) - min(loads) <= max(sizes, default=0)


def test_spread_says_when_it_does_not_fit():
    assert spread([6, 6, 6], num_bins=2, capacity=11) is None
    assert spread([6, 6, 6], num_bins=2, capacity=12) == [[0, 2], [1]]


def test_spread_evens_loads_that_are_not_sizes_within_the_capacity():
    # By size 5 | 4 + 1 would be even; by load the 1 weighs as much as both others.
    options = {"num_bins": 2, "capacity": 9, "loads": [3, 2, 5]}
    assert spread([5, 4, 1], **options) == [[2], [0, 1]]
    # 5 and 4 need more room than there is: the lighter bin is full, the other takes it.
    assert spread([5, 4, 1], **options | {"capacity": 6}) == [[2, 1], [0]]
    assert spread([5, 4, 1], **options | {"capacity": 4}) is None


@given(loads=sizes_lists, num_ranks=st.integers(1, 6))
def test_ranks_get_nearly_equally_many_items_and_nearly_equal_loads(loads, num_ranks):
    items_of_rank = distribute(loads, num_ranks=num_ranks)
    assert flat(items_of_rank) == list(range(len(loads)))
    lengths = [len(mine) for mine in items_of_rank]
    assert max(lengths) - min(lengths) <= 1
    totals = [sum(loads[i] for i in mine) for mine in items_of_rank]
    assert max(totals) - min(totals) <= max(loads, default=0)


def test_distribute_by_hand():
    # Rounds (9, 5), (4, 1): the rank that got 5 is lighter, so it takes the 4.
    assert distribute([9, 5, 4, 1], num_ranks=2) == [[0, 3], [1, 2]]
