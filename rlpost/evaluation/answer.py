"""One judged answer to one item: a row of ``evaluation.jsonl``.

Owns the record, its JSON and what it counts for in scores. Refuses to own the file
(stages/evaluate/answers_file.py). Invariant: an answer without a reward is never a wrong one.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from rlpost.evaluation.scores import SampleOutcome


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The fields are the keys on disk, in this order.

    Example: ``Answer(model="model", dataset="reasoning", part="steps", uid="0:17", sample=0,
    seed=81, prompt="...", response="... The answer is 7.", answer="7", reward=1.0, error=None,
    verdicts=({"verifier": "math", "reward": 1.0, "error": None},), finish_reason="stop",
    num_tokens=52)``
    """

    model: str  # "model" or "baseline"
    dataset: str
    part: str  # of the data set; empty: it has none
    uid: str
    sample: int
    seed: int
    prompt: str
    response: str
    answer: str | None  # what the response says, to vote; None: nothing, or nobody can tell
    reward: float | None
    error: str | None  # why a verifier gave no reward; None also where all abstained
    verdicts: tuple[Mapping[str, Any], ...]
    finish_reason: str
    num_tokens: int | None  # None: an endpoint gave a text alone

    @property
    def outcome(self) -> SampleOutcome:
        return SampleOutcome(
            reward=self.reward,
            failed=self.error is not None,
            truncated=self.finish_reason == "length",
            vote=self.answer,
        )

    def to_json(self) -> str:
        """Return one line without its newline."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> "Answer":
        """Read one line.

        Raises:
            ValueError: it is not such a row; says what is wrong.
        """
        row = json.loads(line)
        names = {declared.name for declared in fields(cls)}
        if not isinstance(row, dict) or row.keys() != names:
            raise ValueError(f"the row must have exactly the fields {', '.join(sorted(names))}")
        return cls(**{**row, "verdicts": tuple(row["verdicts"])})
