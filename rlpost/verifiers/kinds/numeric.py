"""Verifier ``numeric``: the last number in the response is the answer.

Owns which numbers stand in a text, and the tolerance. Refuses answers that are not one plain
number: fractions, tuples, times and units are for math.py. Invariants: thinking does not
count; integers of any length are compared exactly; no tolerance is larger than the answer it
is applied to.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rlpost.bounds import number
from rlpost.verifiers.answers.find import answer_part, without_thinking
from rlpost.verifiers.answers.notation import (
    characters,
    commands,
    peeled,
    without_currency,
    without_emphasis,
)
from rlpost.verifiers.answers.quantity import NUMBER, NotPlain, Quantity, TooLarge, quantity
from rlpost.verifiers.base import AnswerConfig, Judge, Sample, Score, verifiers

DEFAULT_REL_TOL = 1e-6  # of an answer that is no integer

# A minus directly after a digit, letter or closing bracket is an operator, as in "9-3", and
# not a sign; "= -3", "(-3", "$-3" and "= - 3" are signed. An exponent belongs to its number.
_SIGN = r"(?:(?<![\w)\]}%!])[-+]|(?:(?<=[=(:])|^)\s*-[ ]+)?"
_EXPONENT = r"\^\s*(?:\{\s*[-+]?\d+\s*\}|[-+]?\d+)"
_NUMBER = re.compile(
    rf"{_SIGN}(?<![\d^])(?<!\^\{{)(?:{NUMBER})(?:{_EXPONENT})?(?:\s*[*xX]\s*10\s*{_EXPONENT})?"
)
# The bottom of a fraction is no number of its own: 3/4 and \\frac{3}{4} are 0.75, never 4.
_FRACTION = (
    rf"{_SIGN}\\frac\s*\{{\s*-?(?:{NUMBER})\s*\}}\s*\{{\s*(?:{NUMBER})\s*\}}"
    rf"|{_SIGN}(?<![\w^/.)\]}}])(?:{NUMBER})/(?:{NUMBER})(?![\d/(^])"
)
_NUMBER_OR_FRACTION = re.compile(rf"{_FRACTION}|{_NUMBER.pattern}")
_ASSIGNED = re.compile(r"[^=\d]*=\s*")


@dataclass(kw_only=True)
class NumericConfig(AnswerConfig):
    """1 when ``|x - answer| <= max(abs_tol, rel_tol * |answer|)``, else 0.

    Without a ``rel_tol``, an integer must be equal and any other number may differ by a
    millionth of the answer. ``abs_tol`` does not apply to answers that are smaller than it,
    except to 0.
    """

    kind: str = "numeric"
    abs_tol: float = number(
        0.0,
        at_least=0,
        at_most=1e12,
        hint="0 means equality",
        help="largest difference that counts as equal",
    )
    rel_tol: float | None = number(
        None,
        at_least=0,
        at_most=1,
        hint="0 means equality",
        help="largest difference as a share of the answer; null: 0 for integers, else 1e-6",
    )

    def gold_refusal(self, gold: object) -> str | None:
        reason = super().gold_refusal(gold)
        if reason is None and single_number(str(gold)) is None:
            return (
                f"column {self.answer_column!r} must be one plain number for verifier=numeric, got "
                f"{str(gold).strip()!r:.80}; use verifier=math for fractions, units, times and "
                "formulas"
            )
        return reason

    def stated_answer(self, text: str, columns: Mapping[str, Any]) -> str | None:
        value = last_number(text)
        return None if value is None else str(value)


@verifiers.register("numeric", NumericConfig)
def numeric(cfg: NumericConfig) -> Judge:
    """Build the judge."""

    def judge(sample: Sample) -> Score:
        gold = single_number(cfg.gold_of(sample))
        assert gold is not None, "its row would have been refused"
        value = last_number(sample.text)
        if value is None:
            return {"reward": 0.0, "reason": "no number in the response"}
        return float(value == gold or abs(value - gold) <= _tolerance(gold, cfg))

    return judge


def last_number(text: str) -> Fraction | None:
    """Return the last number written in ``text`` outside of the thinking, or None.

    A number of more digits than anybody compares counts as none, and so does a fraction that
    is an integer nobody worked out.

    Example: ``last_number("so 2 * 600 = 1,200.") == 1200``
    """
    matches = _NUMBER_OR_FRACTION.findall(_normal(without_thinking(characters(text))))
    if not matches:
        return None
    value = _value(matches[-1])
    is_fraction = "/" in matches[-1] or "\\frac" in matches[-1]
    return None if is_fraction and value is not None and value.denominator == 1 else value


def single_number(gold: str) -> Fraction | None:
    """Return the number that a reference answer is, None when it is anything else.

    A worked solution counts as what it marks as its answer (``#### 72``, ``\\boxed{72}``).
    """
    part = answer_part(characters(gold))
    if part is None:
        return None
    text = peeled(_normal(part.text)).removesuffix("%").strip()
    text = text[match.end() :] if (match := _ASSIGNED.match(text)) else text
    return _value(text) if _NUMBER.fullmatch(text) else None


def _normal(text: str) -> str:
    return commands(without_currency(without_emphasis(text)))


def _value(text: str) -> Fraction | None:
    try:
        found: Quantity = quantity(re.sub("[xX]", "*", text))
    except (NotPlain, TooLarge):
        return None
    return found.value


def _tolerance(gold: Fraction, cfg: NumericConfig) -> Fraction:
    relative = cfg.rel_tol
    if relative is None:
        relative = 0.0 if gold.denominator == 1 else DEFAULT_REL_TOL
    absolute = Fraction(cfg.abs_tol)
    if gold and abs(gold) <= absolute:
        absolute = Fraction(0)  # it would make every small answer equal to every other
    return max(absolute, Fraction(relative) * abs(gold))
