"""Verifier ``names``: the response names the right answer and none of the wrong ones.

Owns the search for words. Refuses to understand sentences: "not Rome" names Rome. Invariants:
thinking does not count; case does not matter; a name is found only as whole words.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlpost.bounds import option
from rlpost.verifiers.answers.find import without_thinking
from rlpost.verifiers.base import AnswerConfig, Judge, Sample, Score, verifiers


@dataclass(kw_only=True)
class NamesConfig(AnswerConfig):
    """1 when the response names the answer, or another spelling of it, and no wrong answer."""

    kind: str = "names"
    accepted_column: str = option(
        "accepted", help="column with a list of other spellings of the answer; it may be missing"
    )
    others_column: str = option(
        "others", help="column with a list of wrong answers; it may be missing"
    )

    def refusal(self, columns: Mapping[str, Any]) -> str | None:
        reason = super().refusal(columns)
        if reason is not None:
            return reason
        for column in (self.accepted_column, self.others_column):
            names = columns.get(column) or []
            if not isinstance(names, list | tuple) or not all(map(_is_name, names)):
                return f"column {column!r} must be a list of texts that are not empty"
        right = {name.casefold() for name in self.accepted(columns)}
        for name in columns.get(self.others_column) or []:
            if name.casefold() in right:
                return f"column {self.others_column!r} holds the right answer {name!r:.80}"
        return None

    def stated_answer(self, text: str, columns: Mapping[str, Any]) -> str | None:
        known = [*self.accepted(columns), *(columns.get(self.others_column) or [])]
        found = _pattern(known).findall(without_thinking(text))
        return " / ".join(sorted({" ".join(name.casefold().split()) for name in found})) or None

    def accepted(self, columns: Mapping[str, Any]) -> list[str]:
        """Return every spelling of the right answer."""
        return [str(columns[self.answer_column]), *(columns.get(self.accepted_column) or [])]


@verifiers.register("names", NamesConfig)
def names(cfg: NamesConfig) -> Judge:
    """Build the judge."""

    def judge(sample: Sample) -> Score:
        cfg.gold_of(sample)  # raises where the row has none
        text = without_thinking(sample.text)
        right = _pattern(cfg.accepted(sample.columns))
        if not right.search(text):
            return {"reward": 0.0, "reason": "the answer is not named"}
        others = sample.columns.get(cfg.others_column) or []
        # A wrong name that is a part of the right one was not given as an answer.
        wrong = _pattern(others).search(right.sub(" ", text)) if others else None
        if wrong:
            return {"reward": 0.0, "reason": f"{wrong[0]} is named too"}
        return 1.0

    return judge


def _pattern(names: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted((name.strip() for name in names), key=len, reverse=True)
    spelled = "|".join(r"\s+".join(map(re.escape, name.split())) for name in longest_first)
    return re.compile(rf"(?<!\w)(?:{spelled})(?!\w)", re.IGNORECASE)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
