"""Pairs of the same words: only what the prompt says of each thing tells which is better."""

import random
import re
from collections import Counter

import pytest
from bag_of_words import BagOfWords, share_in_order

from rlpost.data.synthetic.catalog import PAIR_SETS

SET = PAIR_SETS["relations"]
TRAINED, HELD_OUT = SET.training(1200, 0), SET.held_out()
PROMPT = {
    "owner": r"(?P<a>\w+) has a (?P<x>\w+) \w+ and (?P<b>\w+) has a (?P<y>\w+) ",
    "place": r"The (?P<a>\w+) lies in the (?P<x>\w+) and the (?P<b>\w+) lies in the (?P<y>\w+)\.",
    "day": r"to the (?P<a>\w+) on (?P<x>\w+) and to the (?P<b>\w+) on (?P<y>\w+)\.",
    "count": r"has (?P<x>\d+) (?P<a>\w+)s and (?P<y>\d+) (?P<b>\w+)s ",
}
FACT = {
    "owner": r"of (\w+) is (\w+)",
    "place": r"he (\w+) is in the (\w+)",
    "day": r"to the (\w+) is on (\w+)",
    "count": r"of (\w+)s is (\d+)",
}


def told(item):
    """What the prompt says of each thing, in its order."""
    found = re.search(PROMPT[item.kind], item.prompt)
    return {found["a"]: found["x"], found["b"]: found["y"]}


def said(item, answer):
    """What the answer says of each thing, in its order."""
    return dict(re.findall(FACT[item.kind], answer))


@pytest.mark.parametrize("kind", SET.kinds)
def test_chosen_answers_follow_from_the_prompt_and_rejected_ones_exchange_the_values(kind):
    mine = [item for item in (*TRAINED, *HELD_OUT) if item.kind == kind]
    assert len(mine) >= 300
    for item in mine:
        facts = told(item)
        assert len(facts) == len(set(facts.values())) == 2, item
        assert said(item, item.chosen) == facts, item
        exchanged = dict(zip(facts, reversed(facts.values()), strict=True))
        assert said(item, item.rejected) == exchanged, item


def test_both_answers_are_of_the_same_words_and_length():
    for item in (*TRAINED, *HELD_OUT):
        assert sorted(item.chosen.split()) != item.chosen.split()
        assert Counter(re.findall(r"\w+", item.chosen)) == Counter(
            re.findall(r"\w+", item.rejected)
        )
        assert len(item.chosen) == len(item.rejected)


def ordered(read):
    """The share of held-out pairs in order by a classifier of what ``read`` makes of an answer."""
    sides = [
        [read(item, answer) for item in TRAINED for answer in (getattr(item, side),)]
        for side in ("chosen", "rejected")
    ]
    fitted = BagOfWords([*sides[0], *sides[1]], [True] * len(TRAINED) + [False] * len(TRAINED))
    better, worse = (
        fitted.scores([read(item, getattr(item, side)) for item in HELD_OUT])
        for side in ("chosen", "rejected")
    )
    return share_in_order(better, worse)


def values_in_order(item, answer):
    """Whether the values come in the prompt's order, and the first of them."""
    values = list(said(item, answer).values())
    return f"{'same' if values == list(told(item).values()) else 'other'} {values[0]}"


def test_neither_words_nor_length_nor_the_order_of_values_tell_which_answer_is_better():
    assert len(HELD_OUT) >= 300
    assert ordered(lambda item, answer: answer) == 0.5
    assert ordered(lambda item, answer: f"{item.prompt} {answer}") == 0.5
    assert ordered(values_in_order) < 0.6


def test_the_classifier_would_find_what_gives_it_away():
    def in_prompt_order(item, answer):
        """As if each answer named the things in the prompt's order."""
        facts = told(item)
        is_right = said(item, answer) == facts
        values = list(facts.values()) if is_right else list(reversed(facts.values()))
        return f"{'same' if values == list(facts.values()) else 'other'} {values[0]}"

    assert ordered(in_prompt_order) == 1


@pytest.mark.parametrize("kind", SET.kinds)
def test_things_are_named_in_the_order_of_the_prompt_half_of_the_time(kind):
    mine = [item for item in (*TRAINED, *HELD_OUT) if item.kind == kind]
    same = sum(list(said(item, item.chosen)) == list(told(item)) for item in mine)
    assert abs(2 * same - len(mine)) < 4 * len(mine) ** 0.5


@pytest.mark.parametrize("kind", SET.kinds)
def test_facts_in_another_order_lie_on_the_same_side_of_the_split(kind):
    """Else a held-out pair could be one that was trained on with its facts exchanged."""

    class Reversed(random.Random):
        def sample(self, population, k):
            return super().sample(population, k)[::-1]

    for seed in range(50):
        one, other = (SET.kinds[kind](each(seed)) for each in (random.Random, Reversed))
        assert one.prompt != other.prompt and one.key == other.key
