"""Pairs for reward models: true answers, and neither words nor length nor place tell which."""

import re
from collections import Counter

import pytest
from bag_of_words import BagOfWords, share_in_order

from rlpost.data.synthetic.catalog import PAIR_SETS

SET = PAIR_SETS["consistency"]
TRAINED, HELD_OUT = SET.training(1200, 0), SET.held_out()


def value(item, answer):
    """What the answer says, and whether the prompt has it."""
    pattern = {
        "color": r"is (\w+)\.",
        "place": r"in the (\w+)\.",
        "day": r"is on (\w+)\.",
        "count": r"has (\d+) \w+\.",
    }[item.kind]
    said = re.search(pattern, answer)[1]
    return said, bool(re.search(rf"\b{said}\b", item.prompt))


@pytest.mark.parametrize("kind", SET.kinds)
def test_chosen_answers_follow_from_the_prompt_and_rejected_ones_do_not(kind):
    mine = [item for item in (*TRAINED, *HELD_OUT) if item.kind == kind]
    assert len(mine) >= 300
    for item in mine:
        right, is_there = value(item, item.chosen)
        wrong, is_there_too = value(item, item.rejected)
        assert is_there and not is_there_too, item
        assert item.rejected == item.chosen.replace(f" {right}", f" {wrong}"), item


def classifier():
    answers = [item.chosen for item in TRAINED] + [item.rejected for item in TRAINED]
    return BagOfWords(answers, [True] * len(TRAINED) + [False] * len(TRAINED))


def ordered(fitted, pairs):
    return share_in_order(
        fitted.scores([better for better, _ in pairs]), fitted.scores([worse for _, worse in pairs])
    )


def test_words_and_length_do_not_tell_which_answer_is_better():
    assert len(HELD_OUT) >= 300
    fitted = classifier()
    assert ordered(fitted, [(item.chosen, item.rejected) for item in HELD_OUT]) < 0.6


def test_the_classifier_would_find_a_word_that_gives_it_away():
    """Of 1200 rejected answers every second one says no once more."""
    spoiled = [f"{item.rejected} No." if i % 2 else item.rejected for i, item in enumerate(TRAINED)]
    answers = [item.chosen for item in TRAINED] + spoiled
    fitted = BagOfWords(answers, [True] * len(TRAINED) + [False] * len(TRAINED))
    pairs = [(item.chosen, f"{item.rejected} No.") for item in HELD_OUT]
    assert ordered(fitted, pairs) > 0.9


def test_both_answers_have_the_same_number_of_words():
    for item in (*TRAINED, *HELD_OUT):
        assert len(item.chosen.split()) == len(item.rejected.split())


@pytest.mark.parametrize("kind", SET.kinds)
def test_each_value_is_right_as_often_as_wrong(kind):
    mine = [item for item in (*TRAINED, *HELD_OUT) if item.kind == kind]
    right = Counter(value(item, item.chosen)[0] for item in mine)
    wrong = Counter(value(item, item.rejected)[0] for item in mine)
    assert set(right) == set(wrong)
    for each in right:
        assert abs(right[each] - wrong[each]) < 4 * (right[each] + wrong[each]) ** 0.5
