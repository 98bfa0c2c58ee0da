"""Intervals: against published numbers, laws, and how often they hold the truth."""

import math

import numpy as np
import pytest

from rlpost.errors import UserError
from rlpost.evaluation.intervals import estimate_mean, standard_error, wilson


def ones(right, total):
    return [[1.0]] * right + [[0.0]] * (total - right)


def coverage(num_items, num_samples, *, clustered, rounds=400):
    """How often an interval of 95 % holds the mean over all items there could be."""
    random, held = np.random.default_rng(7), 0
    for _ in range(rounds):
        skill_I = random.beta(0.6, 0.9, size=num_items)  # most items are easy or hard
        right_IS = random.random((num_items, num_samples)) < skill_I[:, None]
        rows = right_IS.astype(float).tolist()
        clusters = rows if clustered else [[value] for row in rows for value in row]
        found = estimate_mean(clusters)
        held += found.low <= 0.6 / 1.5 <= found.high
    return held / rounds


def test_wilson_gives_the_published_interval():
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    low, high = wilson(81 / 263, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = wilson(0.0, 20)
    assert (low, round(high, 4)) == (0.0, 0.1611)
    assert wilson(1 / 29, 29)[0] == pytest.approx(0.0061, abs=5e-5)


def test_one_sample_an_item_is_wilson_of_the_items():
    for right in (0, 1, 17, 49, 50):
        found = estimate_mean(ones(right, 50))
        assert (found.low, found.high) == pytest.approx(wilson(right / 50, 50), abs=1e-12)
        assert (found.mean, found.num_items, found.num_values) == (right / 50, 50, 50)


def test_samples_that_always_agree_are_worth_one():
    once = estimate_mean(ones(17, 50))
    eight = estimate_mean([values * 8 for values in ones(17, 50)])
    assert (eight.low, eight.high) == pytest.approx((once.low, once.high), abs=1e-12)
    assert eight.num_values == 400


def test_the_standard_error_is_that_of_the_items_means():
    rows = [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]
    means = [sum(row) / 2 for row in rows]
    assert standard_error(rows) == pytest.approx(np.std(means) / math.sqrt(4))


def test_an_interval_of_clustered_samples_holds_the_truth_and_a_naive_one_does_not():
    assert 0.93 <= coverage(60, 8, clustered=True) <= 0.98
    assert coverage(60, 8, clustered=False) < 0.75  # the mechanism is what makes the difference


def test_what_is_not_known_widens_the_interval_and_leaves_the_mean():
    known = estimate_mean(ones(20, 40))
    unknown = estimate_mean([*ones(20, 40), *[[None]] * 10])
    assert unknown.mean == known.mean == 0.5
    assert (unknown.num_unknown, unknown.num_items) == (10, 40)
    assert unknown.low == pytest.approx(wilson(20 / 50, 50)[0])
    assert unknown.high == pytest.approx(wilson(30 / 50, 50)[1])


def test_nothing_known_is_no_estimate():
    assert estimate_mean([]) is None
    assert estimate_mean([[None, None], []]) is None


def test_rewards_beyond_0_and_1_have_the_interval_of_the_normal_distribution():
    rows = [[2.0], [4.0], [9.0], [1.0]]
    found = estimate_mean(rows)
    half = 1.959964 * np.std([2, 4, 9, 1], ddof=1) / 2
    assert (found.low, found.high) == pytest.approx((4 - half, 4 + half), rel=1e-6)
    with_unknown = estimate_mean([*rows, [None]])
    assert (with_unknown.mean, with_unknown.low, with_unknown.high) == (4.0, None, None)
    assert estimate_mean([[2.0, 4.0]]).low is None  # one item says nothing about others


def test_values_that_are_all_alike_still_have_a_width():
    always = estimate_mean([[1.0, 1.0]] * 30)
    assert (always.low, always.high) == wilson(1.0, 30)
    half = estimate_mean([[0.5]] * 30)
    assert half.low < 0.5 < half.high


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_is_a_probability(confidence):
    with pytest.raises(UserError, match=r"confidence must be in \(0, 1\)"):
        estimate_mean(ones(1, 2), confidence=confidence)
