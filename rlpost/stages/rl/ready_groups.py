"""``ready.json``: finished groups that no step has taken, inside a checkpoint.

Owns the format. Prompts are found again by uid, so only trajectories are written. Invariant:
what is read equals what was written.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from rlpost.control.buffer import Ready
from rlpost.types import Group, Prompt, Span, Trajectory, Verdict


def to_records(entries: Iterable[Ready[Group]]) -> list[dict[str, Any]]:
    """Return JSON-able records."""
    return [
        {
            "uid": entry.uid,
            "order": entry.order,
            "version": entry.version,
            "trajectories": [asdict(t) for t in entry.group.trajectories],
        }
        for entry in entries
    ]


def from_records(
    records: Iterable[Mapping[str, Any]], *, find: Callable[[str], Prompt]
) -> list[Ready[Group]]:
    """Rebuild the entries; ``find`` gives the prompt of a uid."""
    return [
        Ready(
            uid=record["uid"],
            order=record["order"],
            version=record["version"],
            group=Group(
                prompt=find(record["uid"]),
                trajectories=tuple(_trajectory(each) for each in record["trajectories"]),
            ),
        )
        for record in records
    ]


def _trajectory(record: Mapping[str, Any]) -> Trajectory:
    fields = dict(record)
    for name in ("prompt_ids", "response_ids", "rollout_logprobs", "written"):
        fields[name] = tuple(fields[name])
    fields["spans"] = tuple(Span(**span) for span in fields["spans"])
    fields["verdicts"] = tuple(Verdict(**verdict) for verdict in fields["verdicts"])
    return Trajectory(**fields)
