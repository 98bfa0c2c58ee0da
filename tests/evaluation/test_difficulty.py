"""The share of right responses of an item, and its classes."""

import pytest

from rlpost.evaluation.difficulty import CLASSES, difficulty_class, histogram, pass_rate


def test_a_response_without_a_reward_is_no_wrong_one():
    assert pass_rate([1.0, None, 0.0, 1.0]) == pytest.approx(2 / 3)
    assert pass_rate([None, None]) is None


def test_never_and_always_are_classes_of_their_own():
    found = {rate: difficulty_class(rate) for rate in (0, 0.1, 0.2, 0.6, 3 * 0.2, 0.99, 1)}
    assert found == {
        0: "never", 0.1: "0%-20%", 0.2: "20%-40%", 0.6: "60%-80%", 3 * 0.2: "60%-80%",
        0.99: "80%-100%", 1: "always",
    }  # fmt: skip


def test_every_item_with_a_rate_is_in_one_class():
    counts = histogram([0.0, 1.0, 1.0, 0.5, None])
    assert list(counts) == list(CLASSES)
    assert {name: count for name, count in counts.items() if count} == {
        "never": 1, "40%-60%": 1, "always": 2,
    }  # fmt: skip
