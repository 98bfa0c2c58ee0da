"""Verifier ``math``: the answer of the response equals the row's answer, by value.

Owns the kind's settings. Which part of the response is its answer, and what is equal, is said
in ``answers/`` and, with examples, in docs/verifiers.md. Invariants: an answer that no
response can have is refused when the row is loaded; whatever a response holds, it scores 0 or
1; to repeat the computation that was asked for is not to answer.
"""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlpost.verifiers.answers import formula
from rlpost.verifiers.answers.compare import judge as judge_answer
from rlpost.verifiers.answers.compare import read_gold
from rlpost.verifiers.answers.find import Origin, Part, answer_part, is_boxable
from rlpost.verifiers.answers.notation import characters, commands
from rlpost.verifiers.base import AnswerConfig, Judge, Sample, Score, verifiers
from rlpost.verifiers.kinds.numeric import last_number

# What a page does not show: tags, and letters that are blank.
_UNSEEN = re.compile(
    r"</?(?:p|br|hr|div|span|em|strong|b|i|u)\b[^<>]*>|[\u115f\u1160\u3164\uffa0]", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")
_MAX_VOTE = 200  # characters of words that are voted for


@dataclass(kw_only=True)
class MathConfig(AnswerConfig):
    """1 when the answer of the response equals the column's by value, else 0.

    Words, choices, times, dates and based numerals are compared as text.
    """

    kind: str = "math"

    def gold_refusal(self, gold: object) -> str | None:
        reason = super().gold_refusal(gold)
        if reason is None and not _says_something(str(gold)):
            return (
                f"column {self.answer_column!r} must hold a letter or a digit, got "
                f"{str(gold).strip()!r:.80}"
            )
        return reason

    def own_answer(self, columns: Mapping[str, Any]) -> str | None:
        gold = str(columns[self.answer_column])
        answer = read_gold(gold.strip()).text
        return f"\\boxed{{{answer}}}" if is_boxable(answer) else gold

    def stated_answer(self, text: str, columns: Mapping[str, Any]) -> str | None:
        part = answer_part(characters(text))
        return None if part is None else _vote(part)


@verifiers.register("math", MathConfig)
def math(cfg: MathConfig) -> Judge:
    """Build the judge; imports and first use of sympy take about half a second."""
    formula.prepare()

    def judge(sample: Sample) -> Score:
        gold = cfg.gold_of(sample)
        outcome = judge_answer(read_gold(gold), sample.text)
        if outcome.reason:
            return {"reward": float(outcome.right), "reason": outcome.reason}
        return float(outcome.right)

    return judge


def _vote(part: Part) -> str | None:
    """Return the number that an answer is, or else its words."""
    lines = part.text.strip().splitlines()
    if not lines:
        return None
    said = lines[-1] if part.origin is Origin.TEXT else lines[0]
    if part.origin is Origin.PHRASE:
        said = _SENTENCE_END.split(said)[0]
    value = last_number(said)
    words = " ".join(re.findall(r"\w+", said.casefold()))
    return str(value) if value is not None else words[:_MAX_VOTE] or None


def _says_something(gold: str) -> bool:
    """Whether there is a letter, digit or command that an answer could equal."""
    part = answer_part(characters(gold))
    if part is None:
        return False
    seen = commands(_UNSEEN.sub("", html.unescape(part.text)))
    return any(map(str.isalnum, seen)) or "\\" in seen.replace("\\ ", "")
