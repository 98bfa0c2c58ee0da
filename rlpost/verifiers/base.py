"""What a verifier is: one config dataclass, one factory, one registry line.

Owns the contract between a kind (kinds/) and the service: the sample a kind sees, what it may
return, and the registry. Refuses to own processes and deadlines (workers/) and the rule that
combines rewards (combine.py). Invariant: a kind returns a number only when it has judged the
response; whatever it cannot judge it raises.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from rlpost.bounds import number, option
from rlpost.errors import DataError
from rlpost.registry import Registry
from rlpost.types import Episode, Prompt

TIMEOUT = "timeout"  # Verdict.error of a response that outlived its deadline
ABSTAINED = "abstained"  # Verdict.error when the verifier returned None
_MAX_BITS = 13_000  # of an integer that Python writes out: sys.int_info.default_max_str_digits

NO_SETTING = {"omegaconf_ignore": True}  # metadata of a field that no user sets

verifiers = Registry("verifier")


@dataclass(kw_only=True)
class VerifierConfig:
    """What every kind has in common."""

    kind: str
    weight: float = number(
        1.0,
        at_least=-1e6,
        at_most=1e6,
        hint="1.0 is usual",
        help="factor of its reward, see rewards.rule; with 0 it only measures",
    )
    timeout_s: float = number(
        5.0,
        above=0,
        at_most=86400,
        hint="5 is the default",
        help="wall-clock deadline of one response",
    )
    env: list[str] = option([], help="environment variables that the worker may see")
    abstains: bool = option(
        False, help="abstain on rows that it cannot judge, which are refused otherwise"
    )
    # Where it stands in the run's configuration: "verifier" or "verifiers.NAME".
    place: str = field(default="verifier", metadata=NO_SETTING)

    def __str__(self) -> str:
        """Example: ``"verifier=math"``, ``"verifiers.strict=exact"``."""
        return f"{self.place}={self.kind}"

    def addressed(self, message: str) -> str:
        """Return a kind's message, which calls its options ``verifier.*``, for this verifier."""
        return re.sub(r"(?<![\w.@/])verifier\.", f"{self.place}.", message)

    def expanded(self) -> "Mapping[str, VerifierConfig]":
        """Return a config per reward, by the name that its verdicts and metrics have.

        Raises:
            UserError: starts with the name of the setting that does not fit.
        """
        return {self.kind: self}

    @property
    def judges_groups(self) -> bool:
        """Whether all responses to a prompt are judged in one call; known once ``check`` ran."""
        return False

    def settled(self, declaration: "Declaration") -> Self:
        """Return a config that knows what its judge declares."""
        return self

    def required_columns(self) -> tuple[str, ...]:
        """Return the dataset columns without which this verifier cannot judge any row."""
        return ()

    def refusal(self, columns: Mapping[str, Any]) -> str | None:
        """Return why no response to a row with these columns can be judged, None if one can.

        Asked of every row when it is loaded, so it must be cheap. The columns that
        ``required_columns`` names are there.
        """
        return None

    def unjudgeable(self, columns: Mapping[str, Any]) -> str | None:
        """Return why no response to a row can be judged, also because a column is missing."""
        for column in self.required_columns():
            if columns.get(column) is None:
                return f"the row has nothing in column {column!r}"
        return self.refusal(columns)

    def own_answer(self, columns: Mapping[str, Any]) -> str | None:
        """Return a response made of the row's answer that must score 1, None if none is known.

        The columns have passed ``refusal``.
        """
        return None

    def stated_answer(self, text: str, columns: Mapping[str, Any]) -> str | None:
        """Return what a response says in a form in which equal answers are equal texts.

        None where it says nothing, and for a kind that cannot tell. It decides what wrong
        responses vote for in maj@k, and never whether a response is right.
        """
        return None

    def resolved(self) -> Self:
        """Return a config that means the same in another process's working directory."""
        return self


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One response to judge, as plain JSON data.

    ``prompt`` and ``completion`` have the shape the dataset row had: a string prompt is
    judged with a string completion, a list of messages with a list of one message.

    Example: ``Sample(prompt="What is 2 * 3?", text="6", completion_ids=(21,),
    columns={"answer": "6"}, address="train.jsonl:18")``
    """

    prompt: str | list[dict[str, Any]]
    text: str  # the response without special tokens
    prompt_text: str = ""  # what the model read, with the chat template; empty: not known
    completion_ids: tuple[int, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    finish_reason: str = "stop"
    address: str = ""  # file:line of the row

    @property
    def completion(self) -> str | list[dict[str, Any]]:
        if isinstance(self.prompt, str):
            return self.text
        return [{"role": "assistant", "content": self.text}]


@dataclass(kw_only=True)
class AnswerConfig(VerifierConfig):
    """What the kinds have in common that compare with the right answer in a column."""

    answer_column: str = option("answer", help="column of the right answer")

    def required_columns(self) -> tuple[str, ...]:
        return (self.answer_column,)

    def refusal(self, columns: Mapping[str, Any]) -> str | None:
        return self.gold_refusal(columns[self.answer_column])

    def own_answer(self, columns: Mapping[str, Any]) -> str | None:
        return str(columns[self.answer_column])

    def gold_refusal(self, gold: object) -> str | None:
        """Return why a value cannot be a right answer of this kind, None when it can."""
        return refusal_of(gold, column=self.answer_column)

    def gold_of(self, sample: Sample) -> str:
        """Return the right answer of a sample's row as stripped text.

        Raises:
            DataError: the column is missing, or holds what ``gold_refusal`` refuses.
        """
        at = f"{sample.address}: " if sample.address else ""
        if self.answer_column not in sample.columns:
            raise DataError(
                f"{at}the row has no column {self.answer_column!r} (it has "
                f"{sorted(sample.columns)}); set verifier.answer_column"
            )
        gold = sample.columns[self.answer_column]
        if (reason := self.gold_refusal(gold)) is not None:
            raise DataError(f"{at}{reason}")
        return str(gold).strip()


Score = float | None | dict[str, Any]  # a dict holds "reward"; its other keys are information
Judge = Callable[[Sample], Score]
# As many as samples; an exception in the place of a score is that response's own failure.
GroupCall = Callable[[Sequence[Sample]], Sequence[Score | Exception]]


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a judge says about itself once it is built."""

    groups: bool = False  # it takes all responses to a prompt in one call
    columns: tuple[str, ...] = ()  # a row without one of these cannot be judged
    answers: tuple[str, ...] = ()  # nor can a row without a value in at least one of these


@dataclass(frozen=True, kw_only=True)
class DeclaredJudge:
    """A ``Judge`` of several samples that declares what it needs."""

    together: GroupCall
    declaration: Declaration

    def __call__(self, sample: Sample) -> Score:
        [score] = self.together([sample])
        if isinstance(score, Exception):
            raise score
        return score


def sample_of(prompt: Prompt, episode: Episode, *, prompt_text: str = "") -> Sample:
    """Return what a verifier sees of one episode; ``prompt_text`` as in ``Sample``."""
    messages = prompt.messages
    return Sample(
        prompt=prompt.text if messages is None else [dict(message) for message in messages],
        text=episode.text,
        prompt_text=prompt_text,
        completion_ids=episode.response_ids,
        columns=dict(prompt.columns),
        finish_reason=episode.finish_reason,
        address=prompt.address,
    )


def refusal_of(gold: object, *, column: str) -> str | None:
    """Return why a value can be nobody's reference answer, None when it can."""
    if isinstance(gold, bool) or not isinstance(gold, str | int | float):
        return f"column {column!r} must be text or a number, got {_shown(gold)}"
    if isinstance(gold, float) and not math.isfinite(gold):
        return f"column {column!r} must be a finite number, got {gold}"
    if isinstance(gold, str) and not gold.strip():
        return f"column {column!r} must not be empty, got {gold!r:.80}"
    if isinstance(gold, int) and gold.bit_length() > _MAX_BITS:
        return f"column {column!r} must be text where a number has more than 4,000 digits"
    return None


def _shown(value: object) -> str:
    kind = type(value).__name__
    if isinstance(value, Mapping | list | tuple):
        return f"a {kind} of {len(value)}"
    return f"{value!r:.80} ({kind})"
