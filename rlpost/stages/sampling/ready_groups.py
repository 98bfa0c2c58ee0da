"""Finished groups that no step has taken, inside a checkpoint.

Owns the format. Prompts are found again by uid, so only episodes are written. Invariant:
what is read equals what was written.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from rlpost.control.buffer import Ready
from rlpost.types import Episode, Group, Prompt, Span, Trajectory, Verdict


def to_records(entries: Iterable[Ready[Group]]) -> list[dict[str, Any]]:
    """Return JSON-able records."""
    return [
        {
            "uid": entry.uid,
            "order": entry.order,
            "version": entry.version,
            "episodes": [asdict(episode) for episode in entry.group.episodes],
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
                episodes=tuple(_episode(each) for each in record["episodes"]),
            ),
        )
        for record in records
    ]


def _episode(record: Mapping[str, Any]) -> Episode:
    fields = dict(record)
    fields["trajectories"] = tuple(_trajectory(each) for each in fields["trajectories"])
    fields["verdicts"] = tuple(Verdict(**verdict) for verdict in fields["verdicts"])
    return Episode(**fields)


def _trajectory(record: Mapping[str, Any]) -> Trajectory:
    fields = {name: tuple(value) for name, value in record.items()}
    fields["spans"] = tuple(Span(**span) for span in fields["spans"])
    return Trajectory(**fields)
