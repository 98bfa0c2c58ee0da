"""Which two responses of a group are compared."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.algorithms.preference.pairing import ChosenPair, best_and_worst

REWARDS = st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=8)


def different(count):
    """Responses of several lengths, no two alike."""
    return [[3] * (1 + place % 3) + [place] for place in range(count)]


def test_best_against_worst():
    found = best_and_worst([0.5, 2.0, None, -1.0], response_ids=different(4), seed=0)
    assert found == ChosenPair(chosen=1, rejected=3)


@pytest.mark.parametrize("rewards", [[1.0, 1.0], [None, None], [None, 0.0], [0.0], []])
def test_without_a_difference_there_is_no_pair(rewards):
    assert best_and_worst(rewards, response_ids=different(len(rewards)), seed=0) is None


def test_one_response_that_was_judged_twice_teaches_nothing():
    assert best_and_worst([1.0, 0.0], response_ids=[[4, 2], [4, 2]], seed=0) is None
    found = best_and_worst([1.0, 0.0, 0.0], response_ids=[[4, 2], [4, 2], [9]], seed=0)
    assert found == ChosenPair(chosen=0, rejected=2)


def test_an_empty_response_is_in_no_pair():
    assert best_and_worst([1.0, 0.0], response_ids=[[4], []], seed=0) is None


@given(REWARDS, st.integers(0, 99), st.randoms(use_true_random=False))
def test_a_pair_has_the_ends_of_the_rewards_whatever_the_order(rewards, seed, shuffle):
    ids = different(len(rewards))
    found = best_and_worst(rewards, response_ids=ids, seed=seed)
    judged = [reward for reward in rewards if reward is not None]
    assert (found is None) == (len(set(judged)) < 2)
    order = list(range(len(rewards)))
    shuffle.shuffle(order)
    again = best_and_worst(
        [rewards[place] for place in order],
        response_ids=[ids[place] for place in order],
        seed=seed,
    )
    if found is None:
        assert again is None
        return
    assert rewards[found.chosen] == max(judged) and rewards[found.rejected] == min(judged)
    assert ids[order[again.chosen]] == ids[found.chosen]
    assert ids[order[again.rejected]] == ids[found.rejected]


def test_among_equals_the_seed_decides_evenly_and_not_the_length():
    rewards, ids = [1.0] * 4 + [0.0], [[7], [7, 7], [7] * 9, [7] * 40, [1]]
    chosen = Counter(
        best_and_worst(rewards, response_ids=ids, seed=seed).chosen for seed in range(4000)
    )
    assert set(chosen) == {0, 1, 2, 3}
    assert all(900 < count < 1100 for count in chosen.values()), chosen
    rng = random.Random(0)
    seeds = [rng.randrange(2**31) for _ in range(20)]
    assert len({best_and_worst(rewards, response_ids=ids, seed=s).chosen for s in seeds}) > 1
