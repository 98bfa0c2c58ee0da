import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.errors import UserError
from rlpost.pipeline.gate import Delta, Measured, Number, Operation, Score, parse_gate

HOSTILE = (
    "__import__('os').system('true') > 0",
    "score.__class__ > 0",
    "score(target).real > 0",
    "score(target)[0] > 0",
    "(lambda: 1)() > 0",
    "[x for x in (1, 2)] > 0",
    "9 ** 9 ** 9 ** 9 > rows",
    "rows / 0 > 1",
    "rows // 2 > 1",
    "rows << 99999 > 1",
    "rows > 1e999",
    "rows > True",
    "rows > 'a'",
    "rows > 1j",
    "f'{rows}' > 0",
    "(rows := 3) > 1",
    "rows if 1 else 2 > 1",
    "rows > 1 and rows < 3",
    "not rows > 1",
    "1 < rows < 3",
    "rows != 3",
    "rows in (1, 2)",
    "rows is 3",
    "rows",
    "1 > 2",
    "",
    " ",
    "rows >",
    "eval(rows) > 1",
    "score() > 0",
    "score(a, b, c) > 0",
    "delta(a, b) > 0",
    "score(suite=target) > 0",
    "score('target') > 0",
    "score(*target) > 0",
    "rowz > 3",
    "(" * 450 + "rows" + ")" * 40 + "> 1",
    "-" * 400 + "rows > 1",
    "rows > 1 + " + "1 + " * 200 + "1",
    "rows > \x00",
    "rows > " + "9" * 400,
)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_not_in_the_grammar_is_refused_by_field(text):
    if text == "-" * 400 + "rows > 1":  # signs are in the grammar, however many
        assert parse_gate(text, field="gate").left
        return
    with pytest.raises(UserError, match=r"^stages\[0\]\.gate: "):
        parse_gate(text, field="stages[0].gate")


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(UserError):
        parse_gate(text, field="gate")


def test_a_name_that_is_nearly_right_is_said():
    with pytest.raises(UserError, match="did you mean 'rows'"):
        parse_gate("rowss > 3", field="gate")


def test_the_grammar():
    gate = parse_gate("score(target)  >= 0.5*score(target, sft2) - -rows", field="gate")
    assert gate.text == "score(target) >= 0.5*score(target, sft2) - -rows"
    assert gate.left == Score("target")
    half = Operation("*", Number(0.5), Score("target", "sft2"))
    assert gate.right == Operation("-", half, Operation("*", Number(-1.0), Measured("rows")))
    assert parse_gate("delta(general) > -0.02", field="gate").left == Delta("general")
    assert gate.suites() == {"target"}
