"""What a sign in a run's metrics is, and how rows of metrics are read.

Owns the record. Refuses to own the rules (learning_signs.py and those that it names). Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from typing import Any

Metrics = Mapping[str, Any]  # a row of metrics.jsonl; None where a value was not finite


class SignKind(Enum):
    """What is wrong."""

    unjudged = "responses without a verdict"
    no_reward = "no reward above 0"
    solved = "solved from the start"
    equal = "equal rewards"
    truncated = "every response truncated"
    no_heldout = "no held-out data"
    length = "length is preferred"
    chosen_fall = "chosen responses become less likely"
    capacity = "the adapter is too small"


@dataclass(frozen=True, kw_only=True)
class Sign:
    """One sign: what was found, as a sentence, and what a person can do.

    Example: ``Sign(kind=SignKind.truncated, finding="every response of steps 1 and 2 was cut at
    rollout.max_tokens", advice="raise rollout.max_tokens")``
    """

    kind: SignKind
    finding: str
    advice: str

    def __str__(self) -> str:
        return f"{self.finding}. {self.advice}."


def number(row: Metrics, name: str) -> float | None:
    """Return a metric of a row; None: it is not there, or not finite."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value)


def steps_of(rows: Sequence[Metrics]) -> str:
    """Name the steps of rows. Example: ``steps 3 and 4``, ``steps 3 to 7``."""
    first, last = rows[0]["step"], rows[-1]["step"]
    if first == last:
        return f"step {last}"
    return f"steps {first} {'and' if last == first + 1 else 'to'} {last}"
