from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.bounds import check_config
from rlpost.errors import DataError, UserError
from rlpost.verifiers.base import Sample
from rlpost.verifiers.numeric import NumericConfig, last_number, numeric


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
        (".5", "0.5"),
        ("0.5", "0.5"),
        ("6.02e23", "6.02e23"),
        ("1E-3", "0.001"),
        ("**12**", "12"),
        ("\\boxed{12}", "12"),
        ("12 apples", "12"),
        ("H2O 7", "7"),
        ("72.5%", "72.5"),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "six", "-", ".", ",", "e"])
def test_no_number(text):
    assert last_number(text) is None


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4))
def test_reads_what_was_written(value):
    assert last_number(f"so the result is {value}.") == value
    assert last_number(f"= {value:,}") == value


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
    assert _reward("6.0000001", "6", abs_tol=0.0) == 0.0
    assert _reward("6.0", "6", abs_tol=0.0) == 1.0


def test_absurd_exponents_score_zero():
    assert _reward("1e999999999", "6") == 0.0
    assert _reward("1e99999999999999999999999", "6") == 0.0
    assert _reward("-1e999999999", "6", rel_tol=1.0) == 0.0


def test_gold_without_a_number_is_an_error_of_the_row():
    with pytest.raises(DataError, match=r"f\.jsonl:3: column 'answer' has no number"):
        _reward("6", "six")


@pytest.mark.parametrize("settings", [{"abs_tol": -1.0}, {"rel_tol": float("nan")}])
def test_bad_tolerance_is_refused(settings):
    with pytest.raises(UserError, match=r"verifier\.\w+_tol must be in \[0, "):
        check_config(NumericConfig(**settings), "verifier")
