"""Steps for process reward models: labels that other code agrees with, and no give-away."""

import re

import pytest
from bag_of_words import BagOfWords

from rlpost.data.synthetic.catalog import STEP_SETS

SET = STEP_SETS["solutions"]
TRAINED, HELD_OUT = SET.training(1200, 0), SET.held_out()


def solve_total(prompt, steps):
    facts = re.findall(r"(\w+) has (\d+)", prompt)
    (first, _), (second, _) = facts
    counts = [int(count) for _, count in facts]
    assert [step.split()[0] for step in steps] == [first, second, "To"]
    for count, step in zip(counts, steps, strict=False):
        yield int(re.search(r"has (\d+)", step)[1]) == count
    yield [int(n) for n in re.findall(r"\d+", steps[2])] == counts


def solve_moves(prompt, steps):
    places = re.findall(r"(?:in|to) the (\w+)[ .,]", prompt.partition(" Where")[0] + " ")
    assert (len(places), len(steps)) == (3, 3)
    for step, place in zip(steps, places, strict=True):
        yield step.endswith(f" {place}.")


def solve_most(prompt, steps):
    held = {color: int(n) for color, n in re.findall(r"[Aa] (\w+) box (?:holds )?(\d+)", prompt)}
    assert len(held) == 2
    best = max(held, key=held.__getitem__)
    for step in steps:
        color = re.match(r"The (\w+) box", step)[1]
        count = re.search(r"holds (\d+)", step)
        yield held[color] == int(count[1]) if count else color == best


@pytest.mark.parametrize("kind", SET.kinds)
def test_labels_are_what_another_reading_finds(kind):
    mine = [item for item in (*TRAINED, *HELD_OUT) if item.kind == kind]
    assert len(mine) >= 400
    for item in mine:
        assert tuple(globals()[f"solve_{kind}"](item.prompt, item.steps)) == item.labels, item


def steps_of(items):
    pairs = [pair for item in items for pair in zip(item.steps, item.labels, strict=True)]
    return [step for step, _ in pairs], [label for _, label in pairs]


def test_half_of_the_steps_are_right_in_each_place():
    for kind in SET.kinds:
        mine = [item.labels for item in TRAINED if item.kind == kind]
        for place in zip(*mine, strict=True):
            assert 0.42 < sum(place) / len(place) < 0.58


def test_words_and_length_do_not_tell_which_step_is_wrong():
    fitted = BagOfWords(*steps_of(TRAINED))
    for kind in (*SET.kinds, None):
        steps, labels = steps_of([item for item in HELD_OUT if kind in (item.kind, None)])
        assert len(steps) >= 200
        assert ((fitted.scores(steps) > 0) == labels).mean() < 0.6


def test_the_classifier_would_find_a_word_that_gives_it_away():
    steps, labels = steps_of(TRAINED)
    marked = [step if label else f"{step} Hm." for step, label in zip(steps, labels, strict=True)]
    fitted = BagOfWords(marked, labels)
    assert ((fitted.scores(marked) > 0) == labels).mean() > 0.95


def test_the_label_of_a_step_says_nothing_about_the_next_one():
    pairs = [both for item in TRAINED for both in zip(item.labels, item.labels[1:], strict=False)]
    assert 0.45 < sum(one == other for one, other in pairs) / len(pairs) < 0.55
