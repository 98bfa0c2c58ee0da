"""Verifier ``numeric``: the last number in the response is the answer.

Owns how a number is read from prose. Refuses fractions, units and formulas (math.py reads
those). Invariant: integers of any length are compared exactly.
"""

import decimal
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rlpost.bounds import number
from rlpost.errors import DataError
from rlpost.verifiers.base import (
    Judge,
    Sample,
    Score,
    VerifierConfig,
    gold_of,
    refusal_of,
    verifiers,
)

# A minus directly after a digit, letter or closing bracket is an operator, as in "9-3", and
# not a sign; "= -3", "(-3" and "$-3" are signed. Grouping commas need three digits after.
_NUMBER = re.compile(
    r"(?:(?<![\w)\]])[-+])?(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\d)\.\d+)"
    r"(?:[eE][-+]?\d+)?"
)
_UNICODE_MINUS = str.maketrans({"\u2212": "-", "\uff0d": "-"})


@dataclass(kw_only=True)
class NumericConfig(VerifierConfig):
    """1 when ``|x - answer| <= max(abs_tol, rel_tol * |answer|)``, else 0."""

    kind: str = "numeric"
    answer_column: str = "answer"
    abs_tol: float = number(1e-6, at_least=0, at_most=1e12, hint="0 means equality")
    rel_tol: float = number(0.0, at_least=0, at_most=1, hint="0 means equality")

    def required_columns(self) -> tuple[str, ...]:
        return (self.answer_column,)

    def refusal(self, columns: Mapping[str, Any]) -> str | None:
        return refusal_of(columns[self.answer_column], column=self.answer_column)


@verifiers.register("numeric", NumericConfig)
def numeric(cfg: NumericConfig) -> Judge:
    """Build the judge."""
    # No traps: a number too large for the context becomes infinite, which equals nothing.
    context = decimal.Context(prec=50, traps=[])

    def judge(sample: Sample) -> Score:
        gold_text = gold_of(sample, cfg.answer_column)
        gold = last_number(gold_text)
        if gold is None:
            at = f"{sample.address}: " if sample.address else ""
            raise DataError(f"{at}column {cfg.answer_column!r} has no number: {gold_text!r:.80}")
        value = last_number(sample.text)
        if value is None:
            return {"reward": 0.0, "reason": "no number in the response"}
        if value == gold:
            return 1.0
        distance = context.abs(context.subtract(value, gold))
        relative = context.multiply(Decimal(cfg.rel_tol), context.abs(gold))
        return float(distance <= max(Decimal(cfg.abs_tol), relative))

    return judge


def last_number(text: str) -> Decimal | None:
    """Return the last finite number written in ``text``, or None.

    Example: ``last_number("so 2 * 600 = 1,200.") == 1200``
    """
    matches = _NUMBER.findall(text.translate(_UNICODE_MINUS))
    if not matches:
        return None
    # A digit of another script is a digit for Decimal as well; an exponent beyond Decimal's
    # own range is not a number anybody means.
    with decimal.localcontext(decimal.Context(traps=[])):
        value = Decimal(matches[-1].replace(",", ""))
    return value if value.is_finite() else None
