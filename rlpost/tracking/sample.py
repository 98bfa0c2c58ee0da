"""One judged response as plain data, for sample tables and files.

Owns the record and its conversion from an episode. Refuses to own where it is written
(files/rollouts.py, wandb/tracker.py). Invariant: a failed verifier's reward is null, never 0.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from rlpost.types import Episode, Group, Prompt

T = TypeVar("T")

_MAX_DIGITS = 200  # hexadecimal, of a whole number that does not fit 64 bits


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """One judged response as plain data; the fields are the keys on disk, in this order.

    ``spans`` say which of the ``num_tokens`` were sampled; the others are observations.

    Example: ``SampleRecord(uid="0:17", sample=3, prompt="What is 2 * 3?", response="6",
    reward=1.0, verdicts=({"verifier": "math", "reward": 1.0, ...},), finish_reason="stop",
    num_tokens=2, spans=({"start": 0, "end": 2, "version": 4},))``
    """

    uid: str
    sample: int
    prompt: str
    response: str
    reward: float | None
    verdicts: tuple[Mapping[str, Any], ...]
    finish_reason: str
    num_tokens: int
    spans: tuple[Mapping[str, int], ...]

    def to_json(self) -> str:
        """Return one line without its newline; non-finite numbers become null."""
        return json.dumps(_finite(asdict(self)), ensure_ascii=False, allow_nan=False)


def record_of(prompt: Prompt, episode: Episode) -> SampleRecord:
    """Return the record of one episode; the tokens of its trajectories are laid end to end."""
    spans, start = [], 0
    for trajectory in episode.trajectories:
        for span in trajectory.spans:
            moved = replace(span, start=start + span.start, end=start + span.end)
            spans.append(asdict(moved))
        start += len(trajectory.response_ids)
    return SampleRecord(
        uid=episode.uid,
        sample=episode.sample,
        prompt=prompt.text,
        response=episode.text,
        reward=episode.reward,
        verdicts=tuple(
            {
                "verifier": verdict.verifier,
                "reward": verdict.reward,
                "error": verdict.error,
                "latency_s": verdict.latency_s,
                "info": dict(verdict.info),
            }
            for verdict in episode.verdicts
        ),
        finish_reason=episode.finish_reason,
        num_tokens=start,
        spans=tuple(spans),
    )


def records_of(groups: Iterable[Group]) -> list[SampleRecord]:
    """Return one record per episode, group by group."""
    return [record_of(group.prompt, each) for group in groups for each in group.episodes]


def evenly(items: Sequence[T], count: int) -> list[T]:
    """Return at most ``count`` items, evenly spread, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]


def _finite(value: Any) -> Any:
    """Return plain JSON data; values without a JSON form become null or their ``repr``."""
    match value:
        case None | bool():
            return value
        case int():
            return int(value) if abs(value) < 2**63 else f"{value:#x}"[:_MAX_DIGITS]
        case str():
            return _text(value)
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {_text(str(key)): _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
    return _text(repr(value))


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()  # half of a surrogate pair is not valid text
