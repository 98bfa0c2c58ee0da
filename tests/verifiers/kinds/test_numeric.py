import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.bounds import check_config
from rlpost.errors import DataError, UserError
from rlpost.verifiers.base import Sample
from rlpost.verifiers.kinds.numeric import NumericConfig, last_number, numeric, single_number


def _reward(text, answer, **settings):
    score = numeric(NumericConfig(**settings))(
        Sample(prompt="q", text=text, columns={"answer": answer}, address="f.jsonl:3")
    )
    return score["reward"] if isinstance(score, dict) else score


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("6", "6"),
        ("2 * 3 = 6", "6"),
        ("x=6.", "6"),
        ("=-6", "-6"),
        ("5-3=2", "2"),
        ("9-3", "3"),
        ("(9)-3", "3"),
        ("9 - -3", "-3"),
        ("about -3", "-3"),
        ("it is \u22123 degrees", "-3"),
        ("+4", "4"),
        ("$1,234.50!", "1234.50"),
        ("1,234,567", "1234567"),
        ("3, 4", "4"),
        ("1,2345", "2345"),
        ("1 000", "1000"),
        ("1\\,000", "1000"),
        ("\\boxed{1{,}000}", "1000"),
        ("1\\!,\\!234", "1234"),
        ("x = \u20135", "-5"),
        ("x = - 5", "-5"),
        ("- 5", "-5"),
        ("-$5", "-5"),
        ("that is \uff0d\uff15", "-5"),
        ("\u0664\u0662", "42"),
        ("6.02 \\times 10^{23}", "6.02e23"),
        ("3 x 10^8", "3e8"),
        ("10\u00b2", "100"),
        ("5 m/s^2", "5"),
        ("<think>7</think> 6", "6"),
        ("6 <think>7", "6"),
        (".5", "0.5"),
        ("0.5", "0.5"),
        ("6.02e23", "6.02e23"),
        ("1E-3", "0.001"),
        ("**12**", "12"),
        ("\\boxed{12}", "12"),
        ("12 apples", "12"),
        ("H2O 7", "7"),
        ("72.5%", "72.5"),
        ("minus 18", "-18"),
        ("it is 3/4 of it", "0.75"),
        ("-3/4.", "-0.75"),
        ("$\\dfrac{3}{4}$", "0.75"),
        ("\\frac34", "0.75"),
        ("1/2 + 1/4 = 3/4", "0.75"),
        ("1/2/2020", "2020"),
        ("72/2 = 36", "36"),
        ("(3+7)/2", "2"),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == Fraction(number)


@pytest.mark.parametrize("text", ["", "six", "-", ".", ",", "e", "<think>6", "72/2", "3/0"])
def test_no_number(text):
    assert last_number(text) is None


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4))
def test_reads_what_was_written(value):
    assert last_number(f"so the result is {value}.") == Fraction(value)
    assert last_number(f"= {value:,}") == Fraction(value)
    assert single_number(str(value)) == Fraction(value)


def test_large_integers_are_exact():
    gold = "123456789012345678901234567890123456789012345678901234567890"
    assert _reward(gold, gold) == 1.0
    assert _reward(gold[:-1] + "1", gold) == 0.0


def test_tolerances():
    assert _reward("0.3333333", "0.33333333333") == 1.0
    assert _reward("0.333", "0.33333333333") == 0.0
    assert _reward("0.333", "0.33333333333", abs_tol=1e-3) == 1.0
    assert _reward("99", "100", rel_tol=0.01) == 1.0
    assert _reward("98.9", "100", rel_tol=0.01) == 0.0
    assert _reward("6.0", "6") == 1.0


def test_an_integer_is_exact_unless_a_tolerance_is_set():
    assert _reward("6.0000001", "6") == 0.0
    assert _reward("100000001", "100000000") == 0.0
    assert _reward("100000001", "100000000", rel_tol=1e-6) == 1.0
    assert _reward("6.0000001", "6", abs_tol=1e-6) == 1.0


def test_a_tolerance_does_not_swallow_small_answers():
    assert _reward("2e-8", "1e-8", abs_tol=1e-6) == 0.0
    assert _reward("0", "6.6e-34", abs_tol=1e-6) == 0.0
    assert _reward("1e-8", "1e-8", abs_tol=1e-6) == 1.0
    assert _reward("1e-8", "0", abs_tol=1e-6) == 1.0  # nothing is smaller than 0
    assert _reward("1e-8", "0") == 0.0


def test_absurd_exponents_score_zero():
    assert _reward("1e999999999", "6") == 0.0
    assert _reward("1e99999999999999999999999", "6") == 0.0
    assert _reward("-1e999999999", "6", rel_tol=1.0) == 0.0


NO_SINGLE_NUMBER = [
    "six", "3/4", "1, 2, 3", "(1, 2)", "12:30", "5 m/s^2", "5 cm", "2 1/3", "2024-05-01", "1011_2",
    "x", "3 + 4", "7 apples", "\\frac{1}{2}", "1,2345", "12,34", "\u00bd", "nan", "inf", "1e",
    "--5",
]  # fmt: skip


@pytest.mark.parametrize("gold", NO_SINGLE_NUMBER)
def test_gold_that_is_no_single_number_is_refused(gold):
    reason = NumericConfig().refusal({"answer": gold})
    assert reason.startswith("column 'answer' must be one plain number for verifier=numeric, got")
    with pytest.raises(DataError, match=r"f\.jsonl:3: column 'answer' must be one plain number"):
        _reward("6", gold)


@pytest.mark.parametrize(
    "gold", [6, 0.5, "6", "-6.5", "1,000", "1{,}000", "$5", "50%", "1e-8", "x = 5", "so 2\n#### 72"]
)
def test_gold_that_is_a_single_number_scores_itself(gold):
    assert NumericConfig().refusal({"answer": gold}) is None
    assert _reward(str(gold), gold) == 1.0


CASES = Path(__file__).parents[1] / "cases"
FAULTS = [json.loads(line) for line in (CASES / "reported_faults.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "case", [case for case in FAULTS if case["verifier"] == "numeric"], ids=lambda c: c["gold"]
)
def test_reported_faults(case):
    refused = NumericConfig().refusal({"answer": case["gold"]}) is not None
    assert refused == (case["right"] == "refuse")
    if not refused:
        assert _reward(case["response"], case["gold"]) == case["right"]


@pytest.mark.parametrize("settings", [{"abs_tol": -1.0}, {"rel_tol": float("nan")}])
def test_bad_tolerance_is_refused(settings):
    with pytest.raises(UserError, match=r"verifier\.\w+_tol must be in \[0, "):
        check_config(NumericConfig(**settings), "verifier")
