import pytest

from rlpost.verifiers.base import Sample
from rlpost.verifiers.kinds.build import build
from rlpost.verifiers.kinds.names import NamesConfig

CAPITAL = {"answer": "New Delhi", "accepted": ["Delhi"], "others": ["Rome", "York", "Agra"]}


def reward(text, columns=CAPITAL, **settings):
    score = build(NamesConfig(**settings))(Sample(prompt="q", text=text, columns=columns))
    return score["reward"] if isinstance(score, dict) else score


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("New Delhi", 1),
        ("The capital is new\ndelhi.", 1),
        ("It is Delhi, of course.", 1),
        ("**Delhi**", 1),
        ("Delhiwala", 0),
        ("Rome", 0),
        ("New Delhi, not Rome", 0),
        ("Romeo lives in Delhi", 1),
        ("<think>Rome? Agra?</think>Delhi", 1),
        ("<think>Delhi</think>I do not know", 0),
        ("", 0),
    ],
)
def test_the_answer_alone_is_named(text, right):
    assert reward(text) == right


def test_a_wrong_name_inside_the_right_one_was_not_given():
    york = {"answer": "New York", "others": ["York"]}
    assert reward("New York", york) == 1
    assert reward("New York or York", york) == 0


def test_without_other_names_the_answer_is_enough():
    assert reward("Rome or Paris", {"answer": "Paris"}) == 1
    assert reward("it is c++ (c++)", {"answer": "C++"}) == 1


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"answer": " "}, "must not be empty"),
        ({"answer": "a", "others": "b"}, "'others' must be a list"),
        ({"answer": "a", "accepted": [3]}, "'accepted' must be a list"),
        ({"answer": "a", "others": ["A"]}, "holds the right answer"),
    ],
)
def test_rows_that_cannot_be_judged_are_refused(columns, reason):
    assert reason in NamesConfig().refusal(columns)
    assert NamesConfig().refusal(CAPITAL) is None


def test_columns_may_have_other_names():
    columns = {"city": "Oslo", "wrong": ["Rome"]}
    settings = {"answer_column": "city", "others_column": "wrong"}
    assert reward("Oslo", columns, **settings) == 1
    assert reward("Oslo or Rome", columns, **settings) == 0
