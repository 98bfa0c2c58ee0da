"""Metrics do not depend on how tokens were split over micro-batches and ranks."""

import itertools
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlpost.algorithms.diagnostics import Diagnostics, Tally, merge


def measured(values):
    values = torch.tensor(values, dtype=torch.float64)
    return Diagnostics(
        means={"mean": values}, maxima={"max": values}, effective_sizes={"size": values.abs() + 1}
    )


def tally_of(*batches):
    tally = Tally()
    for values in batches:
        tally.add(measured(values), counted_R=torch.ones(len(values), dtype=torch.bool))
        tally.add_total("total", torch.tensor(sum(values), dtype=torch.float64))
    return tally


def test_metrics_by_hand():
    assert tally_of([1.0, 3.0]).metrics() == pytest.approx(
        {"mean": 2.0, "max": 3.0, "size": 3.0**2 / 10, "total": 4.0}
    )


@given(
    values=st.lists(st.floats(-10, 10), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 12), max_size=3),
)
def test_split_over_ranks_and_micro_batches_changes_nothing(values, cuts):
    edges = sorted({0, len(values), *(min(cut, len(values)) for cut in cuts)})
    parts = [values[a:b] for a, b in itertools.pairwise(edges)]
    whole = tally_of(values).metrics()
    by_micro_batch = tally_of(*parts).metrics()
    by_rank = merge(pickle.loads(pickle.dumps(tally_of(part).cpu())) for part in parts).metrics()
    assert by_micro_batch == pytest.approx(whole, abs=1e-9)
    assert by_rank == pytest.approx(whole, abs=1e-9)


def test_mean_of_means_would_be_wrong():
    """Negative control for the test above: unequal parts."""
    means = [tally_of(part).metrics()["mean"] for part in ([1.0], [4.0, 4.0, 4.0])]
    assert sum(means) / 2 != pytest.approx(tally_of([1.0], [4.0, 4.0, 4.0]).metrics()["mean"])


def test_uncounted_tokens_are_ignored_even_when_not_finite():
    tally = Tally()
    tally.add(measured([1.0, torch.inf, torch.nan]), counted_R=torch.tensor([True, False, False]))
    assert tally.metrics() == pytest.approx({"mean": 1.0, "max": 1.0, "size": 1.0})


def test_nothing_counted_is_absent_not_zero():
    tally = Tally()
    tally.add(measured([1.0]), counted_R=torch.tensor([False]))
    assert tally.metrics() == {}
    assert merge([tally, tally_of([2.0])]).metrics()["mean"] == 2.0


def test_merge_leaves_its_inputs_alone():
    first, second = tally_of([1.0]), tally_of([3.0])
    merge([first, second])
    assert first.metrics() == tally_of([1.0]).metrics()
