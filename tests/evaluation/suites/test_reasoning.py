"""The problems are solved again from their text alone, by other code."""

import re
from datetime import date, timedelta

import pytest

from rlpost.evaluation.suites.catalog import SUITES
from rlpost.evaluation.suites.reasoning import REASONING

EVERY = [*SUITES["reasoning"].held_out(), *SUITES["reasoning"].training(1000, 5)]


def solve_shopping(text):
    (many, dear), (few, cheap) = re.findall(r"(\d+) \w+ at (\d+) dollars each", text)
    paid = re.search(r"pays with (\d+)", text)[1]
    return int(paid) - int(many) * int(dear) - int(few) * int(cheap)


def solve_steps(text):
    value = int(re.search(r"number (\d+)\.", text)[1])
    for verb, amount in re.findall(r"(Add|Subtract|Multiply by) (\d+)\.", text):
        value = {"Add": value.__add__, "Subtract": value.__sub__, "Multiply by": value.__mul__}[
            verb
        ](int(amount))
    return value


def solve_boxes(text):
    first, *rest = re.findall(r"(?:A|a) (\w+) box(?: holds)? (\d+)", text)
    held = {color: int(count) for color, count in [first, *rest]}
    moves = re.findall(r"(\d+) \w+ (?:is|are) moved from the (\w+) box to the (\w+) box", text)
    assert (len(held), len(moves)) == (3, 3)
    for amount, source, target in moves:
        held[source] -= int(amount)
        held[target] += int(amount)
        assert held[source] > 0
    return held[re.search(r"does the (\w+) box", text)[1]]


def solve_ranking(text):
    above = {}
    for one, relation, other in re.findall(r"(\w+) is (\w+) than (\w+)\.", text):
        more, less = (
            (other, one)
            if relation in ("shorter", "younger", "slower", "poorer")
            else (
                one,
                other,
            )
        )
        above[less] = more
    (order,) = set(above.values()) - set(above)
    order = [order]
    while len(order) < 5:
        (following,) = [less for less, more in above.items() if more == order[-1]]
        order.append(following)
    places = {"second": 1, "third": 2, "fourth": 3}
    return order[places.get(re.search(r"Who is the (\w+)", text)[1], 0)]


def solve_calendar(text):
    names = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    start = date(2024, 1, 1 + names.index(re.search(r"Today is (\w+)", text)[1]))
    assert start.strftime("%A") == re.search(r"Today is (\w+)", text)[1]
    ahead, back = map(int, re.search(r"in (\d+) days, .* is (\d+) days before", text).groups())
    return (start + timedelta(days=ahead - back)).strftime("%A")


@pytest.mark.parametrize("kind", REASONING)
def test_another_solution_gives_the_same_answer(kind):
    solve = globals()[f"solve_{kind}"]
    mine = [item for item in EVERY if item.kind == kind]
    assert len(mine) >= 264
    for item in mine:
        assert str(solve(item.prompt)) == item.answer, item.prompt


def test_a_worked_solution_ends_with_its_answer_and_computes_right():
    for item in EVERY:
        assert item.completion.endswith(f" The answer is {item.answer}.")
        equations = re.findall(r"(\d+(?: [-+*] \d+)+) = (\d+)", item.completion)
        assert equations or item.kind in ("boxes", "ranking")
        for left, right in equations:
            assert eval(left) == int(right)  # digits and operators alone


def test_answers_are_spread_so_that_no_constant_is_often_right():
    for kind in REASONING:
        answers = [item.answer for item in EVERY if item.kind == kind]
        most = max(map(answers.count, set(answers))) / len(answers)
        assert most < (0.25 if kind == "calendar" else 0.15)


def test_answers_are_whole_numbers_that_are_not_negative():
    numeric = [item for item in EVERY if item.kind in ("shopping", "steps", "boxes")]
    assert all(item.answer.isdigit() for item in numeric)
