"""The state of each member of a sweep: one small file per member, written by its runner.

Owns ``<sweep>/members/<name>.json`` and the states of a member. Refuses to own how members are
started (cli/) and their results (their own run directories). Invariant: no two
processes write one file, so that members on other hosts need no lock.
"""

import json
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from rlpost.checkpoint.state import read_json, write_text
from rlpost.errors import DataError


class MemberState(Enum):
    """The state of a member."""

    waiting = "not begun"
    running = "running"
    done = "done"
    failed = "failed"
    refused = "refused"  # the user can fix it
    interrupted = "interrupted"


_STATES = {0: MemberState.done, 2: MemberState.refused, 130: MemberState.interrupted}


@dataclass(frozen=True, kw_only=True)
class MemberRecord:
    """One member; ``token`` identifies the command that ran it last.

    Example: ``{"name": "rl-seed=1", "number": 0, "run_dir": "runs/rl-seed=1",
    "overrides": ["seed=1"], "token": "5f3a", "state": "done", "exit_code": 0, "message": ""}``
    """

    name: str
    number: int
    run_dir: str
    overrides: tuple[str, ...]  # those in which it differs from the other members
    token: str
    state: MemberState = MemberState.waiting
    exit_code: int | None = None  # of the command, once it ended
    message: str = ""  # why it did not end well

    def ended(self, exit_code: int, *, message: str = "") -> "MemberRecord":
        """Return the record of a member whose command ended."""
        state = _STATES.get(exit_code, MemberState.failed)
        return replace(self, state=state, exit_code=exit_code, message=message)


def write_member(sweep_dir: Path, record: MemberRecord) -> None:
    """Replace the file of this member.

    Raises:
        OSError: the write fails.
    """
    path = sweep_dir / "members" / f"{record.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {**asdict(record), "state": record.state.value}
    write_text(path, json.dumps(plain, indent=1) + "\n")


def read_members(sweep_dir: Path) -> list[MemberRecord]:
    """Return the members of a sweep in the order in which they were planned.

    Raises:
        DataError: a file is damaged; the message has its address.
    """
    records = [_record(path) for path in sorted((sweep_dir / "members").glob("*.json"))]
    return sorted(records, key=lambda each: (each.number, each.name))


def _record(path: Path) -> MemberRecord:
    plain: dict[str, Any] = read_json(path)
    try:
        plain["state"] = MemberState(plain["state"])
        plain["overrides"] = tuple(plain["overrides"])
        return MemberRecord(**plain)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not the record of a sweep's member ({error})") from error
