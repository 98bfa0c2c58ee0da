"""Pairs for reward models: true answers, and neither words nor length nor place tell which."""

import re

import pytest
from bag_of_words import BagOfWords, share_in_order

from rlpost.data.synthetic.catalog import PAIR_SETS

SET = PAIR_SETS["consistency"]
TRAINED, HELD_OUT = SET.training(1200, 0), SET.held_out()


def solve_color(prompt, answer):
    thing, owner, hue = re.match(r"The (\w+) of (\w+) is (\w+)\.", answer).groups()
    return f"{owner} has a {hue} {thing}" in prompt


def solve_place(prompt, answer):
    thing, where = re.search(r"The (\w+) is in the (\w+)\.", answer).groups()
    return f"{thing} is in the {where}" in prompt.replace(".", " ")


def solve_order(prompt, answer):
    opposites = {}
    for pair in ("taller shorter", "older younger", "faster slower", "richer poorer",
                 "stronger weaker", "louder quieter"):  # fmt: skip
        one, other = pair.split()
        opposites |= {one: other, other: one}
    first, relation, second = re.match(r"(\w+) is (\w+) than (\w+)\.", answer).groups()
    facts = (
        f"{first} is {relation} than {second}.",
        f"{second} is {opposites[relation]} than {first}.",
    )
    return any(fact in prompt for fact in facts)


def solve_opening(prompt, answer):
    word, state, day = re.match(r"(\w+), the \w+ is (\w+) on (\w+)\.", answer).groups()
    assert (word == "Yes") == (state == "open")
    return bool(re.search(rf"\b{state} on {day}", prompt.partition(". Is")[0]))


@pytest.mark.parametrize("kind", SET.kinds)
def test_chosen_answers_follow_from_the_prompt_and_rejected_ones_do_not(kind):
    solve = globals()[f"solve_{kind}"]
    mine = [item for item in (*TRAINED, *HELD_OUT) if item.kind == kind]
    assert len(mine) >= 300
    for item in mine:
        assert solve(item.prompt, item.chosen), item
        assert not solve(item.prompt, item.rejected), item


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
    for kind in SET.kinds:
        mine = [(item.chosen, item.rejected) for item in HELD_OUT if item.kind == kind]
        assert ordered(fitted, mine) < 0.6


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


def test_the_fact_that_is_asked_for_is_told_first_as_often_as_last():
    for kind, word in (("color", -1), ("place", -1)):
        mine = [item for item in (*TRAINED, *HELD_OUT) if item.kind == kind]
        first = [
            item.prompt.index(item.chosen.strip(".").split()[word])
            < item.prompt.index(item.rejected.strip(".").split()[word])
            for item in mine
        ]
        assert abs(sum(first) / len(first) - 0.5) < 0.06


def test_facts_in_another_order_are_the_same_item():
    """The key can be read off the answers, which do not tell the order."""
    for item in (*TRAINED, *HELD_OUT):
        right, wrong = (re.findall(r"\w+", side) for side in (item.chosen, item.rejected))
        if item.kind == "color":
            assert item.key == ("color", right[1], right[-1], wrong[-1])
        if item.kind == "order":
            taller = right[0] if right[2] == item.key[1] else right[-1]
            assert item.key[2] == taller
