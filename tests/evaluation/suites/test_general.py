"""The facts: texts alone, and no question that gives its answer away."""

import re

from rlpost.evaluation.suites.general import general_items


def named(word, text):
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)


def test_every_answer_is_text():
    for item in general_items():
        words = [item.answer, *item.columns["accepted"], *item.columns["others"], item.key[1]]
        assert all(isinstance(word, str) and word.strip() == word for word in words), item


def test_a_question_does_not_name_its_answer():
    for item in general_items():
        for word in (item.answer, *item.columns["accepted"]):
            assert not named(word, item.prompt), item.prompt


def test_the_word_that_is_asked_about_is_no_wrong_answer():
    for item in general_items():
        assert not any(named(other, item.key[1]) for other in item.columns["others"]), item


def test_every_table_has_several_answers():
    for item in general_items():
        assert len(item.columns["others"]) >= 2
