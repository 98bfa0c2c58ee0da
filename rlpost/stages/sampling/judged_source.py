"""Data to answer, and who judges the answers: suites, and sources of the user's own.

Owns the record, how a suite becomes one, and the reading of its prompts. Refuses to own suites
(evaluation/suites/), generators and scores. Invariant: a row whose own answer is judged wrong is
never asked.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from rlpost.data.bad_rows import OnBadRow
from rlpost.data.dataset import DataConfig, PromptDataset
from rlpost.errors import DataError
from rlpost.evaluation.suites.catalog import SUITES
from rlpost.verifiers.admission import refusal_of_row, required_columns
from rlpost.verifiers.base import VerifierConfig
from rlpost.verifiers.check import check as check_verifiers
from rlpost.verifiers.combine import Combination
from rlpost.verifiers.golds import failed_golds, sampled_rows
from rlpost.verifiers.kinds import verifiers as kinds


@dataclass(frozen=True, kw_only=True)
class JudgedSource:
    """A data source and who judges the responses to it."""

    name: str  # in metrics
    data: DataConfig
    verifiers: dict[str, VerifierConfig]
    combination: Combination

    @property
    def speaker(self) -> VerifierConfig | None:
        """The verifier that can tell what a response says; None: there are several."""
        return next(iter(self.verifiers.values())) if len(self.verifiers) == 1 else None


def suite_source(name: str, data: DataConfig) -> JudgedSource:
    """Return the suite ``name`` with the verifier of its own; ``data`` says how it is read."""
    verifiers = {SUITES[name].verifier: kinds.get(SUITES[name].verifier).config()}
    return JudgedSource(
        name=name,
        data=data,
        verifiers=check_verifiers(verifiers),
        combination=Combination(weights=dict.fromkeys(verifiers, 1.0)),
    )


def load_prompts(source: JudgedSource, tokenizer: Any, *, longest: int | None) -> PromptDataset:
    """Load the held-out rows; refuse, or leave out, those whose own answer is not judged right.

    Args:
        source: what is read.
        tokenizer: of the model that answers.
        longest: tokens that a prompt may have; None: as many as it has.

    Raises:
        UserError, DataError: a setting or a row is wrong.
    """
    rows = PromptDataset.load(
        source.data,
        split="heldout",
        tokenizer=tokenizer,
        max_prompt_tokens=longest,
        columns=required_columns(source.verifiers),
        refuse=partial(refusal_of_row, source.verifiers, source.combination.deciding),
    )
    if source.name in SUITES:  # whose golds are tested
        return rows
    tried = [rows.prompt(0, row) for row in sampled_rows(len(rows))]
    failed = failed_golds(source.verifiers, tried)
    if failed and source.data.on_bad_row is OnBadRow.error:
        raise DataError(f"{failed[0]}, or leave such rows out with data.on_bad_row=skip")
    return rows.without({each.address: str(each) for each in failed}) if failed else rows
