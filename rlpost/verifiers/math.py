"""Verifier ``math``: the response's final expression equals the answer mathematically.

Owns how a dataset's answer becomes a gold expression; parsing and comparison are
math_verify's. Its own time-outs are off because they need signals and hide what they cut;
the sandbox's deadline replaces them. Invariants: an answer that is no expression is an error
of the data, and only a response that holds no expression, or a wrong one, scores 0; to
repeat the computation that was asked for is not to answer.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

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

_SCIENTIFIC = re.compile(r"[-+]?\d+(?:\.\d+)?[eE][-+]?\d{1,3}")
_TWO_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}\s+[A-Za-z]{2,}")


@dataclass(kw_only=True)
class MathConfig(VerifierConfig):
    """1 when math_verify finds the response's answer equal to the column's, else 0."""

    kind: str = "math"
    answer_column: str = "answer"

    def required_columns(self) -> tuple[str, ...]:
        return (self.answer_column,)

    def refusal(self, columns: Mapping[str, Any]) -> str | None:
        return refusal_of(columns[self.answer_column], column=self.answer_column)


@verifiers.register("math", MathConfig)
def math(cfg: MathConfig) -> Judge:
    """Build the judge; imports and first use of sympy take about half a second."""
    from math_verify import verify

    # It warns once that its own time-outs are off, which is the point.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    verify(_parse("$1/2$"), _parse("0.5"), timeout_seconds=None)  # fills caches off the clock

    def judge(sample: Sample) -> Score:
        text = gold_of(sample, cfg.answer_column)
        gold = _parse_gold(text)
        if gold is None:
            at = f"{sample.address}: " if sample.address else ""
            raise DataError(
                f"{at}column {cfg.answer_column!r} is not a mathematical expression: "
                f"{text!r:.80}; use verifier=exact for answers that are words"
            )
        if sample.text.strip() == text:
            return 1.0  # "(1, 2)" alone is not recognised as mathematics in a response
        answer = _parse(sample.text)
        if not answer:
            return {"reward": 0.0, "reason": "no mathematical expression in the response"}
        if is_unworked(answer[0]) and not is_unworked(gold[0]):
            return {"reward": 0.0, "reason": "the computation is stated, not its result"}
        return float(verify(gold, answer, timeout_seconds=None, raise_on_error=True))

    return judge


def is_unworked(expression: Any) -> bool:
    """Whether an expression is a sum or product of numbers that nobody has worked out.

    ``4 * 9`` equals 36, so "to find 4 * 9, we" would be as good as an answer, and a policy
    learns to repeat the question. Fractions, roots and powers (3 * 10^8) are results.
    """
    import sympy

    if not isinstance(expression, sympy.Mul | sympy.Add):
        return False
    numbers = [part for part in expression.args if _is_signed_number(part) and part != -1]
    return len(numbers) > 1


def _is_signed_number(part: Any) -> bool:
    import sympy

    if isinstance(part, sympy.Mul) and len(part.args) == 2 and part.args[0] == -1:
        part = part.args[1]
    return isinstance(part, sympy.Integer | sympy.Float)


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    return list(parse(text, parsing_timeout=None))


def _parse_gold(text: str) -> list[Any] | None:
    if _SCIENTIFIC.fullmatch(text):
        text = format(Decimal(text), "f")  # LaTeX reads 1e5 as 1 * e * 5
    # Left bare, "\frac{1}{2}" or "(1, 2)" may lose all but a number; in a box the whole text
    # is the expression. Text that marks its own mathematics goes first as it is, and prose
    # only so: boxed, it would become a product of letters.
    attempts = [f"\\boxed{{{text}}}", f"${text}$"]
    if _TWO_WORDS.search(text):
        attempts = [text]
    elif "$" in text or "\\boxed" in text:
        attempts.insert(0, text)
    for attempt in attempts:
        gold = _parse(attempt)
        # A list of strings only means that nothing was understood as mathematics.
        if any(not isinstance(candidate, str) for candidate in gold):
            return gold
    return None
