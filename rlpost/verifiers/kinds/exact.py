"""Verifier ``exact``: the response, or a part of it, is the answer letter for letter.

Owns the selection of that part. Refuses to normalise anything but surrounding white space
and, on request, case: math.py and numeric.py compare by meaning.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rlpost.bounds import option
from rlpost.errors import UserError
from rlpost.verifiers.base import AnswerConfig, Judge, Sample, Score, verifiers


class Take(Enum):
    """Which part of the response is compared."""

    WHOLE = "whole"
    LAST_LINE = "last_line"  # the last line that is not blank


@dataclass(kw_only=True)
class ExactConfig(AnswerConfig):
    """1 when the selected text equals the answer, else 0.

    Example: ``ExactConfig(extract=r"<answer>(.*?)</answer>")``
    """

    kind: str = "exact"
    take: Take = option(Take.WHOLE, help="which part of the response is compared")
    extract: str | None = option(
        None, help="regular expression whose last match is compared; null: none"
    )
    ignore_case: bool = option(False, help="take capital and small letters for the same")

    def own_answer(self, columns: Mapping[str, Any]) -> str | None:
        # What an expression extracts an answer from cannot be made from the answer alone.
        return super().own_answer(columns) if self.extract is None else None

    def stated_answer(self, text: str, columns: Mapping[str, Any]) -> str | None:
        # A user's expression may take for ever, so it is applied nowhere but in a worker.
        said = self.taken(text) if self.extract is None else ""
        return (said.casefold() if self.ignore_case else said) or None

    def taken(self, text: str) -> str:
        """Return the part of a response that ``take`` names."""
        text = text.strip()
        if self.take is Take.LAST_LINE:
            return text.splitlines()[-1].strip() if text else ""
        return text


@verifiers.register("exact", ExactConfig)
def exact(cfg: ExactConfig) -> Judge:
    """Build the judge.

    Raises:
        UserError: ``extract`` is not a regular expression or has several groups.
    """
    pattern = _compiled(cfg.extract) if cfg.extract is not None else None

    def judge(sample: Sample) -> Score:
        gold = cfg.gold_of(sample)
        text = cfg.taken(sample.text)
        if pattern is not None:
            matches = pattern.findall(text)  # the group's text where there is a group
            if not matches:
                return {"reward": 0.0, "reason": "verifier.extract matched nothing"}
            text = matches[-1].strip()
        if cfg.ignore_case:
            gold, text = gold.casefold(), text.casefold()
        return float(text == gold)

    return judge


def _compiled(extract: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(extract, re.DOTALL)
    except re.error as error:
        raise UserError(f"extract must be a regular expression, got {extract!r}: {error}") from None
    if pattern.groups > 1:
        raise UserError(
            f"extract must have at most one group, got {extract!r} with {pattern.groups}; "
            "write (?:...) for the groups that only group"
        )
    return pattern
