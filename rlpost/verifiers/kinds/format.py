"""Verifier ``format``: the response has the form that the row's column ``form`` describes.

Owns the settings of the kind. What forms there are is said in verifiers/forms.py. Refuses to judge
what the response says: any content of the right form scores 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlpost.bounds import option
from rlpost.errors import DataError
from rlpost.verifiers.answers.find import without_thinking
from rlpost.verifiers.base import Judge, Sample, Score, VerifierConfig, verifiers
from rlpost.verifiers.forms import departure, refusal_of_form


@dataclass(kw_only=True)
class FormatConfig(VerifierConfig):
    """1 when the response, without thinking, has the form that the row asks for, else 0."""

    kind: str = "format"
    form_column: str = option("form", help="column of the form: an object with kind and settings")
    answer_column: str = option(
        "answer", help="column of a response that has the form, to try the row; it may be missing"
    )

    def required_columns(self) -> tuple[str, ...]:
        return (self.form_column,)

    def refusal(self, columns: Mapping[str, Any]) -> str | None:
        reason = refusal_of_form(columns[self.form_column])
        return None if reason is None else f"column {self.form_column!r} {reason}"

    def own_answer(self, columns: Mapping[str, Any]) -> str | None:
        answer = columns.get(self.answer_column)
        return answer if isinstance(answer, str) else None


@verifiers.register("format", FormatConfig)
def format(cfg: FormatConfig) -> Judge:
    """Build the judge."""

    def judge(sample: Sample) -> Score:
        form = sample.columns.get(cfg.form_column)
        if (reason := refusal_of_form(form)) is not None:
            raise DataError(f"{sample.address}: column {cfg.form_column!r} {reason}")
        assert isinstance(form, Mapping)
        found = departure(without_thinking(sample.text).strip(), form)
        return 1.0 if found is None else {"reward": 0.0, "reason": found}

    return judge
