"""Laws of the comparison, on generated answers."""

import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from rlpost.verifiers.answers import formula
from rlpost.verifiers.answers.compare import judge, read_gold
from rlpost.verifiers.kinds.math import MathConfig
from rlpost.verifiers.kinds.numeric import NumericConfig, last_number, single_number

formula.prepare()
SMALL = settings(max_examples=150)

integers = st.integers(-(10**30), 10**30)


def right(gold: str, response: str) -> bool:
    return judge(read_gold(gold), response).right


def last_is(gold: str, response: str) -> bool:
    return single_number(gold) == last_number(response)


def grouped(value: int, separator: str) -> str:
    return f"{value:,}".replace(",", separator)


PROSE = "so the result is {}."  # no gold: there it is a text
INTEGER_NOTATIONS = [
    str,
    lambda n: f"{n}.0",
    lambda n: f"\\boxed{{{n}}}",
    lambda n: f"$x = {n}$",
    PROSE.format,
    lambda n: f"The answer is **{n}**.",
    lambda n: f"<think>1</think><answer>{n}</answer>",
    lambda n: grouped(n, ","),
    lambda n: grouped(n, "\\,"),
    lambda n: grouped(n, "{,}"),
    lambda n: grouped(n, "\\!,\\!"),
    lambda n: str(n).replace("-", "\u2212"),
    lambda n: "".join(chr(ord(c) + 0xFEE0) if c.isdigit() else c for c in str(n)),
    lambda n: f"\\text{{{n}}}",
    lambda n: f"答案：{n}。",
    lambda n: f"{n} cm",
    lambda n: f"{n}e0",
    lambda n: f"{n} \\times 10^{{0}}",
]

GOLD_NOTATIONS = st.sampled_from([write for write in INTEGER_NOTATIONS if write != PROSE.format])


@SMALL
@given(integers, GOLD_NOTATIONS, st.sampled_from(INTEGER_NOTATIONS))
def test_an_integer_is_itself_in_every_notation(value, write_gold, write):
    assert right(write_gold(value), write(value))


@SMALL
@given(integers, integers, GOLD_NOTATIONS, st.sampled_from(INTEGER_NOTATIONS))
@example(10**29 - 20_600_000_164_146, 10**29 - 30_600_000_000_000, "{}.0".format, str)
def test_two_integers_differ_in_every_notation(value, other, write_gold, write):
    assume(value != other)
    assert not right(write_gold(value), write(other))


def mixed(value: Fraction) -> str:
    whole, rest = divmod(abs(value.numerator), value.denominator)
    return f"{'-' * (value < 0)}{whole} {rest}/{value.denominator}"


FRACTION_NOTATIONS = [
    lambda f: f"{f.numerator}/{f.denominator}",
    lambda f: f"\\frac{{{f.numerator}}}{{{f.denominator}}}",
    lambda f: f"\\boxed{{\\dfrac{{{3 * f.numerator}}}{{{3 * f.denominator}}}}}",
    lambda f: f"The answer is {f.numerator} / {f.denominator}.",
    lambda f: mixed(f) if abs(f) > 1 else str(f),
    lambda f: f"${'-' * (f < 0)}\\frac{{{abs(f.numerator)}}}{{{f.denominator}}}$",
    lambda f: f"{100 * f.numerator}/{f.denominator}%",
]
fractions = st.fractions(max_denominator=999).filter(lambda f: f.denominator > 1 and abs(f) < 10**9)


@SMALL
@given(fractions, st.sampled_from(FRACTION_NOTATIONS), st.sampled_from(FRACTION_NOTATIONS[:-1]))
def test_a_fraction_is_itself_in_every_notation(value, write_gold, write):
    assert right(write_gold(value), write(value))


@SMALL
@given(
    fractions,
    fractions,
    st.sampled_from(FRACTION_NOTATIONS[:-1]),
    st.sampled_from(FRACTION_NOTATIONS[:-1]),
)
def test_two_fractions_differ_in_every_notation(value, other, write_gold, write):
    assume(value != other)
    assert not right(write_gold(value), write(other))


@SMALL
@given(st.integers(1, 9999), st.integers(-320, 320), st.integers(1, 9999), st.integers(-320, 320))
def test_scientific_notation_is_compared_at_every_scale(a, exponent, b, other):
    gold = f"{a}e{exponent}"
    same = Fraction(a) * Fraction(10) ** exponent == Fraction(b) * Fraction(10) ** other
    assert right(gold, f"{a} \\times 10^{{{exponent}}}")
    assert right(f"\\boxed{{{a} \\cdot 10^{{{exponent}}}}}", gold)
    assert right(gold, f"{b} \\times 10^{{{other}}}") == same
    assert not right(gold, "0")


@SMALL
@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9
    )
)
def test_decimals_differ_in_their_last_place(value):
    assert right(str(value), f"it is {value:,}.")
    assert not right(str(value), str(value + Decimal("0.001")))


UNWORKED = [
    "{a} * {b}", "{a}*{b}", "{a} \\times {b}", "{a} \\cdot {b}", "{a}({b})", "({a})({b})",
    "{a} × {b}", "{a} x {b}", "\\boxed{{{a} \\times {b}}}", "x = {a} \\times {b}",
    "({a} \\times {b})^1", "{a} \\times {b} + 0", "\\frac{{{a} \\times {b}}}{{1}}",
    "What is {a} * {b}?", "To find {a} * {b}, we", "The answer is {a} \\cdot {b}.",
    "<answer>{a} * {b}</answer>", "{a} * {b} =", "#### {a}*{b}", "$ {a} \\times {b} $",
    "{{{a} \\times {b}}}", "\\left({a} \\cdot {b}\\right)",
    "\\sqrt{{{a}}} \\times \\sqrt{{{a}}} \\times {b}",
]  # fmt: skip


@pytest.mark.parametrize("text", UNWORKED)
def test_a_product_that_is_only_stated_is_no_answer(text):
    for a in (2, 7, 12):
        for b in (3, 9, 11):
            stated = text.format(a=a, b=b)
            assert not right(str(a * b), stated), stated
            assert right(str(a * b), f"{a} * {b} = {a * b}")
            assert right(stated, stated)  # unless the row says it so


@SMALL
@given(st.integers(2, 500), st.integers(2, 500))
def test_sums_and_quotients_of_integers_are_unworked(a, b):
    assert not right(str(a + b), f"{a} + {b}")
    assert not right(str(a), f"\\boxed{{{a + b} - {b}}}")
    assert not right(str(a), f"\\boxed{{\\frac{{{a * b}}}{{{b}}}}}")
    assert not right(str(a), f"{a * b}/{b}")


BITS = [
    "\\frac{", "}", "{", "$", "\\boxed{", "1e9", "^", "-", ",", ".", "=", "\\", "(", ")", "\\pi",
    " ", "12", "x", "and", "or", "<think>", "</think>", "<answer>", "</answer>", "####",
    "the answer is", "%", "\\text{cm}", "[", "]", "_", "2", "!", "\\pm", "\\sqrt", "|", "<", "\\{",
    "\\}", "&", "\\\\", "½", "°", "AM", ":", "3:30", "\n", "**", "*", "'", '"', "May 1", "9^9^9",
]  # fmt: skip
anything = st.text(max_size=30) | st.lists(st.sampled_from(BITS), max_size=14).map("".join)


@settings(max_examples=400)
@given(anything)
def test_no_accepted_gold_fails_to_equal_itself(gold):
    for cfg, last in ((MathConfig(), right), (NumericConfig(), last_is)):
        if cfg.refusal({"answer": gold}) is None:
            assert last(gold.strip(), gold)
            assert last(gold.strip(), cfg.own_answer({"answer": gold}))


@settings(max_examples=400)
@given(anything, anything)
def test_nothing_raises(gold, response):
    judge(read_gold(gold), response)


@pytest.mark.parametrize(
    "response",
    [
        "10^{10^{10}}", "9^{9^{9^{9}}}", "9^9^9^9", "99999999!", "((1+2)^{99999})^{99999}",
        "(x+1)^{100000}", "x^{9^{9^9}}", "\\sum_{k=1}^{99999999} k", "2^{2^{2^{2^{2^{2}}}}}",
        "(" * 5000, "{" * 5000 + "5" + "}" * 5000, "5" * 100_000, "1e999999999999999999",
        "-" * 5000, "\\frac{" * 500, "<think>" * 5000, "\\boxed{" * 2000, "1," * 20_000,
        "x = " * 5000, "and " * 9999, "((((x+1)^9)^9)^9)^9", "\\sqrt{" * 300 + "5", "1/" * 3000,
        "5 " * 30_000, "**" * 9999, "the answer is " * 5000, "#### " * 5000 + "\n" * 5000,
        "$" * 9999, "a_" * 9999, "\\pm" * 999, "\\int_0^{99} e^{x^2} \\sin(x^{50}) dx",
        "\\begin{pmatrix}" * 99, "9" * 300 + "^" + "9" * 300, "x^{60}+y^{60}-(x+y)^{60}",
        "\\sin(" * 12 + "x" + ")" * 12, "\\tan(\\sin(\\cos(x^9+1)))^{50}",
        "e^{e^{e^{e^{e}}}}", "\\pi^{\\pi^{\\pi^{\\pi^{\\pi}}}}", "\\exp(\\exp(\\exp(\\exp(5))))",
        "\\sin(9^{4000})", "\\binom{10^{9}}{10^{8}}", "((x!)!)!!", "(\\pi^{99}!)!", "\\pi!!!!",
        "\\Gamma(10^{4000})", "\\sqrt{2}^{5000}", "\\pi (10^{5000})^{5000}", "\\pi 9999!",
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_nothing_takes_long(response):
    """Where the deadline of the sandbox would cut, the response would have no reward."""
    for gold in ("5", "x+1", "\\sqrt{2}", "1, 2", "No"):
        start = time.thread_time()
        assert not right(gold, response)
        assert time.thread_time() - start < 2
