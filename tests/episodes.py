"""Episodes and trajectories made by hand."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from rlpost.types import Episode, Span, Trajectory


def spans_of(versions: Sequence[int | None]) -> tuple[Span, ...]:
    """The spans of tokens that these versions sampled; None: an observation."""
    spans, start = [], 0
    for version, run in groupby(versions):
        end = start + len(list(run))
        if version is not None:
            spans.append(Span(start=start, end=end, version=version))
        start = end
    return tuple(spans)


def sampled_places(trajectory: Trajectory) -> list[int]:
    """The places of the tokens that were sampled."""
    return [place for span in trajectory.spans for place in range(span.start, span.end)]


def trajectory(
    ids: Sequence[int],
    *,
    prompt_ids: Sequence[int] = (5, 6, 7),
    versions: int | Sequence[int | None] = 0,
    logprobs: Sequence[float] | None = None,
) -> Trajectory:
    """Tokens behind a prompt; log-probs are -1 by default."""
    spans = spans_of([versions] * len(ids) if isinstance(versions, int) else versions)
    num_sampled = sum(span.end - span.start for span in spans)
    return Trajectory(
        prompt_ids=tuple(prompt_ids),
        response_ids=tuple(ids),
        spans=spans,
        rollout_logprobs=(-1.0,) * num_sampled if logprobs is None else tuple(logprobs),
    )


def episode(
    *trajectories: Trajectory,
    uid: str = "0:0",
    sample: int = 0,
    finish_reason: str = "stop",
    text: str = "",
    seed: int = 0,
    **fields: Any,
) -> Episode:
    """An episode of these trajectories."""
    return Episode(
        uid=uid,
        sample=sample,
        trajectories=trajectories,
        finish_reason=finish_reason,
        text=text,
        seed=seed,
        **fields,
    )


def in_two_trajectories(whole: Episode) -> Episode:
    """Lay an episode's tokens out anew: an observation after the first, and half of them later.

    The second half follows a prompt of its own, as after a history that was rendered again.
    """
    (row,) = whole.trajectories
    ids, said, half = row.response_ids, row.rollout_logprobs, whole.num_sampled // 2
    assert half > 0, "too few tokens"
    first = trajectory(
        (*ids[:1], 90, 91, *ids[1:half]),
        prompt_ids=row.prompt_ids,
        versions=[0, None, None, *[0] * (half - 1)],
        logprobs=said[:half],
    )
    second = trajectory(ids[half:], prompt_ids=(*row.prompt_ids, 92), logprobs=said[half:])
    return replace(whole, trajectories=(first, second))
