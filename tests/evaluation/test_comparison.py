"""Paired comparisons: against enumeration, the binomial test, and laws."""

from itertools import product
from math import comb

import numpy as np
import pytest

from rlpost.errors import UserError
from rlpost.evaluation.comparison import compare, sign_flip_p_value


def by_item(*rows):
    return {f"item {number}": list(row) for number, row in enumerate(rows)}


def enumerated(differences):
    sums = [
        sum(sign * each for sign, each in zip(signs, differences, strict=True))
        for signs in product((1, -1), repeat=len(differences))
    ]
    observed = abs(sum(differences))
    return sum(abs(each) >= observed - 1e-12 for each in sums) / len(sums)


def mcnemar(worse, better):
    """The two-sided binomial test of the items that only one model solves."""
    n, few = worse + better, min(worse, better)
    return min(1.0, 2 * sum(comb(n, i) for i in range(few + 1)) / 2**n)


@pytest.mark.parametrize(
    "differences", [(3, -1, 2, 0, 1), (1, 1, 1, 1), (0, 0), (-2, -2, 4), (5, 1, -1, 2, 2, -3)]
)
def test_the_p_value_is_the_share_of_all_sign_flips(differences):
    assert sign_flip_p_value(differences) == pytest.approx(enumerated(differences), abs=1e-12)


@pytest.mark.parametrize(("worse", "better"), [(0, 5), (3, 9), (7, 7), (1, 0), (10, 30)])
def test_with_one_sample_an_item_it_is_mcnemars_exact_test(worse, better):
    differences = [-1.0] * worse + [1.0] * better + [0.0] * 20
    assert sign_flip_p_value(differences) == pytest.approx(mcnemar(worse, better), abs=1e-12)


def test_graded_rewards_are_tested_by_drawn_flips():
    differences = [0.3, -0.1, 0.25, 0.4, 0.05, 0.2, -0.15]
    drawn = sign_flip_p_value(differences, seed=1, resamples=40_000)
    assert drawn == pytest.approx(enumerated(differences), abs=0.01)
    assert drawn == sign_flip_p_value(differences, seed=1, resamples=40_000)
    assert sign_flip_p_value([0.1] * 40, resamples=1000) == 1 / 1001  # never 0


def test_the_difference_is_that_of_the_means_and_the_same_seed_gives_the_same_interval():
    random = np.random.default_rng(0)
    before = by_item(*(random.random((60, 4)) < 0.3).astype(float).tolist())
    after = by_item(*(random.random((60, 4)) < 0.6).astype(float).tolist())
    found = compare(before, after, seed=3)
    assert found == compare(before, after, seed=3)
    few = [compare(before, after, seed=seed, resamples=99) for seed in (3, 4)]
    assert few[0].low != few[1].low  # the seed matters
    means = [np.mean(list(rewards.values())) for rewards in (before, after)]
    assert found.difference == pytest.approx(means[1] - means[0])
    assert 0 < found.low < found.difference < found.high and found.p_value < 1e-4
    assert (found.num_items, found.num_pairs, found.num_unknown) == (60, 240, 0)


def test_models_that_answer_alike_are_alike():
    rows = by_item([3.0, 0.0], [0.0, 0.0], [1.0, 1.0])
    found = compare(rows, rows)
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("items", [1, 3, 50, 600])
def test_the_interval_of_items_that_agree_is_what_so_few_leave_open(items):
    solved, missed = by_item(*[[1.0]] * items), by_item(*[[0.0]] * items)
    alike, better = compare(solved, solved), compare(missed, solved)
    # All items answered alike has a probability of 2.5 % if this share of all items differs.
    share = alike.high
    assert (1 - share) ** items == pytest.approx(0.025)
    assert (alike.low, better.low, better.high) == pytest.approx((-share, 1 - 2 * share, 1))


def test_swapping_the_models_swaps_the_sign():
    random = np.random.default_rng(5)
    rows = [by_item(*(random.random((40, 1)) < p).astype(float).tolist()) for p in (0.4, 0.7)]
    forth, back = compare(*rows), compare(*reversed(rows))
    assert back.difference == -forth.difference
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))
    assert back.p_value == forth.p_value


def test_pairs_narrow_the_interval_and_samples_of_one_item_do_not():
    hard, easy = [0.0] * 45, [1.0] * 45
    before = by_item(*([value] for value in [*hard, *easy, *[0.0] * 10]))
    after = by_item(*([value] for value in [*hard, *easy, *[1.0] * 10]))
    paired = compare(before, after)
    unpaired = 1.96 * np.sqrt(0.45 * 0.55 / 100 + 0.55 * 0.45 / 100)
    assert paired.high - paired.low < unpaired  # an unpaired interval is twice as wide as this
    eight = [{item: row * 8 for item, row in rows.items()} for rows in (before, after)]
    repeated = compare(*eight)
    assert (repeated.low, repeated.high) == pytest.approx((paired.low, paired.high))
    assert repeated.p_value == pytest.approx(paired.p_value)


def test_a_pair_of_which_one_reward_is_unknown_is_left_out():
    before = by_item([1.0, None], [0.0, 0.0], [None, None])
    after = by_item([0.0, 1.0], [1.0, None], [1.0, 1.0])
    found = compare(before, after)
    assert (found.difference, found.num_items, found.num_pairs) == (0.0, 2, 2)
    assert found.num_unknown == 4
    assert compare(by_item([None]), by_item([1.0])) is None


def test_only_the_same_items_and_samples_can_be_compared():
    with pytest.raises(UserError, match="2 were answered by one alone: item 1, item 2"):
        compare(by_item([1.0]), by_item([1.0], [0.0], [0.0]))
    with pytest.raises(UserError, match="got 1 and 2 of item 0"):
        compare(by_item([1.0]), by_item([1.0, 0.0]))


def test_the_bootstrap_is_the_same_however_it_is_cut_into_blocks(monkeypatch):
    rows = [by_item(*([float(v)] for v in np.random.default_rng(s).random(50))) for s in (0, 1)]
    whole = compare(*rows, resamples=500)
    monkeypatch.setattr("rlpost.evaluation.comparison._BLOCK", 1000)
    assert compare(*rows, resamples=500) == whole
