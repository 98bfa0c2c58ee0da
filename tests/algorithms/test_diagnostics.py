"""Metrics do not depend on how tokens were split over micro-batches and ranks."""

import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlpost.algorithms.diagnostics import Diagnostics, Tally, merge


def measured(values):
    values = torch.tensor(values, dtype=torch.float64)
    return Diagnostics(
        means={"mean": values},
        maxima={"max": values},
        effective_sizes={"size": values.abs() + 1},
        explained_variances={"explained": (values, values / 2 + values.square())},
        part_means={"large": (values, values > 2)},
        differences={"apart": (values, values > 2)},
        correlations={"together": (values, values.square())},
    )


def tally_of(*batches):
    tally = Tally()
    for values in batches:
        tally.add(measured(values), counted_R=torch.ones(len(values), dtype=torch.bool))
        tally.add_total("total", torch.tensor(sum(values), dtype=torch.float64))
    return tally


def test_metrics_by_hand():
    assert tally_of([1.0, 3.0, 5.0]).metrics() == pytest.approx(
        {
            "mean": 3.0,
            "max": 5.0,
            "size": 12.0**2 / (3 * (2**2 + 4**2 + 6**2)),
            "total": 9.0,
            # targets 1, 3, 5 and predictions 1.5, 10.5, 27.5: errors -0.5, -7.5, -22.5
            "explained": 1 - (562.75 / 3 - (30.5 / 3) ** 2) / (8 / 3),
            "large": 4.0,
            "apart": 3.0,
            # squares 1, 9, 25: deviations -2, 0, 2 with -32/3, -8/3, 40/3
            "together": 48 / math.sqrt(8 * (32**2 + 8**2 + 40**2) / 9),
        }
    )


def test_a_part_without_a_value_and_a_constant_have_no_metric():
    constant = torch.tensor([2.0, 2.0, 2.0])
    nobody = torch.zeros(3, dtype=torch.bool)
    tally = Tally()
    tally.add(
        Diagnostics(
            part_means={"none": (constant, nobody), "all": (constant, ~nobody)},
            differences={"none apart": (constant, nobody), "all apart": (constant, ~nobody)},
            correlations={"constant": (torch.tensor([1.0, 2.0, 4.0]), constant)},
        ),
        counted_R=~nobody,
    )
    assert tally.metrics() == {"all": 2.0}


@given(
    values=st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=1, max_size=12),
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


def explained(targets, predictions):
    tally = Tally()
    pair = (torch.tensor(targets), torch.tensor(predictions))
    counted_R = torch.ones(len(targets), dtype=torch.bool)
    tally.add(Diagnostics(explained_variances={"x": pair}), counted_R=counted_R)
    return tally.metrics().get("x")


def test_explained_variance_of_perfect_shifted_and_constant_predictions():
    targets = [1.0, 2.0, 4.0]
    assert explained(targets, targets) == pytest.approx(1)
    assert explained(targets, [y + 5 for y in targets]) == pytest.approx(1)  # variance only
    assert explained(targets, [3.0, 3.0, 3.0]) == pytest.approx(0)
    assert explained(targets, [-y for y in targets]) == pytest.approx(-3)


def test_explained_variance_of_a_constant_target_is_absent():
    assert explained([0.1, 0.1, 0.1], [0.0, 1.0, 2.0]) is None
    assert explained([7.0], [1.0]) is None
