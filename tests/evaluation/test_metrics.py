"""pass@k, best@k and maj@k against the enumeration of every draw."""

from collections import Counter
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.errors import UserError
from rlpost.evaluation.metrics import best_at_k, maj_at_k, pass_at_k

ANSWERS = st.lists(st.sampled_from(["4", "5", "6", None]), min_size=1, max_size=8)


def enumerated(items, k, worth):
    draws = list(combinations(items, k))
    return float(sum(map(worth, draws), Fraction(0)) / len(draws))


def vote(truth):
    def won(draw):
        counts = Counter(answer for answer in draw if answer is not None)
        most = max(counts.values(), default=0)
        winners = [answer for answer, count in counts.items() if count == most]
        return Fraction(int(truth in winners), max(1, len(winners)))

    return won


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_share_of_draws_with_a_right_response(n):
    for c in range(n + 1):
        right = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            assert pass_at_k(n, c, k) == enumerated(right, k, lambda draw: Fraction(any(draw)))


def test_pass_at_1_is_the_accuracy_and_pass_at_n_asks_for_one_right_response():
    assert pass_at_k(200, 37, 1) == 37 / 200
    assert pass_at_k(200, 1, 200) == 1.0
    assert pass_at_k(200, 0, 200) == 0.0


def test_pass_at_k_neither_overflows_nor_cancels():
    assert pass_at_k(10**6, 1, 1) == 1e-6
    assert pass_at_k(20_000, 1, 3) == 3 / 20_000
    assert pass_at_k(10_000, 5_000, 5_000) == 1.0  # binomials of 3000 digits


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0), (0, 0, 1)])
def test_impossible_counts_are_refused(n, c, k):
    with pytest.raises(UserError, match=r"must be in \["):
        pass_at_k(n, c, k)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, -3.0]), min_size=1, max_size=7), st.data())
def test_best_at_k_is_the_mean_of_the_best_of_every_draw(rewards, data):
    k = data.draw(st.integers(1, len(rewards)))
    expected = enumerated(rewards, k, lambda draw: Fraction(max(draw)))
    assert best_at_k(rewards, k) == pytest.approx(expected, abs=1e-15)


def test_best_at_k_of_zeros_and_ones_is_pass_at_k():
    for c in range(7):
        for k in range(1, 7):
            assert best_at_k([1.0] * c + [0.0] * (6 - c), k) == pass_at_k(6, c, k)


@given(ANSWERS, st.data())
def test_maj_at_k_is_the_mean_of_the_votes_of_every_draw(answers, data):
    k = data.draw(st.integers(1, len(answers)))
    assert maj_at_k(answers, "4", k) == enumerated(answers, k, vote("4"))


@given(st.permutations(["4", "4", "5", "5", "6", None]))
def test_the_order_of_the_answers_changes_nothing(answers):
    assert maj_at_k(answers, "4", 3) == maj_at_k(["4", "4", "5", "5", "6", None], "4", 3)


def test_tied_answers_share_the_vote():
    assert maj_at_k(["4", "5"], "4", 2) == 0.5
    assert maj_at_k(["4", "5", "6"], "4", 3) == pytest.approx(1 / 3, abs=1e-16)
    assert maj_at_k(["4", "4", "5", "5", "6"], "4", 5) == 0.5


def test_a_response_without_an_answer_has_no_vote():
    assert maj_at_k(["4", None, None], "4", 3) == 1.0
    assert maj_at_k([None, None, None], "4", 3) == 0.0
    assert maj_at_k(["4", None, None], "4", 1) == pytest.approx(1 / 3, abs=1e-16)


def test_one_drawn_response_is_right_as_often_as_responses_are():
    answers = ["4"] * 3 + ["5"] * 4 + [None]
    assert maj_at_k(answers, "4", 1) == 3 / 8


def test_a_vote_among_many_responses_is_counted_too():
    answers = ["4"] * 60 + ["5"] * 40 + [str(n) for n in range(100, 128)]
    assert maj_at_k(answers, "4", 1) == pytest.approx(60 / 128)
    random, worth = np.random.default_rng(0), vote("4")
    drawn = [worth(random.choice(answers, size=32, replace=False).tolist()) for _ in range(4000)]
    assert maj_at_k(answers, "4", 32) == pytest.approx(float(sum(drawn)) / 4000, abs=0.02)
    assert maj_at_k(answers, "4", 128) == 1.0


def test_a_vote_needs_answers_and_a_truth():
    with pytest.raises(UserError, match=r"k must be in \[1, 2\]"):
        maj_at_k(["4", "5"], "4", 3)
    with pytest.raises(UserError, match="truth must be an answer"):
        maj_at_k(["4", "5"], None, 1)
