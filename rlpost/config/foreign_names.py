"""Names that users of TRL, verl and OpenRLHF type, and what they are called here.

Owns the look-up; the names lie in foreign_names.yaml. A foreign name is refused with the right
one, never translated silently: the defaults around it differ. A name is looked up as it was
typed, then without its first parts (``actor_rollout_ref.rollout.n``, ``rollout.n``, ``n``), so
that verl's paths need one entry each.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ForeignNames:
    """The tables of foreign_names.yaml."""

    renamed: dict[str, str]  # foreign name -> option
    reasons: dict[str, str]  # foreign name -> what to do instead
    families: dict[str, str]  # beginning of a part of a foreign name -> what to do instead


@functools.cache
def foreign_names() -> ForeignNames:
    """Read the tables."""
    import yaml

    tables = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    return ForeignNames(
        renamed=_by_name(tables["renamed"].items()),
        reasons=_by_name(_answers(tables["reasons"])),
        families=_by_name(_answers(tables["families"])),
    )


def _answers(groups: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, list[str]]]:
    return [(group["answer"], group["names"]) for group in groups]


def _by_name(groups: Iterable[tuple[str, list[str]]]) -> dict[str, str]:
    answers: dict[str, str] = {}
    for answer, names in groups:
        for name in names:
            assert name not in answers, f"{name} has two answers"
            answers[name] = answer
    return answers


def foreign_answer(name: str) -> str | None:
    """Return what to do instead of ``name``; None where no library calls anything so."""
    tables, parts = foreign_names(), name.split(".")
    for start in range(len(parts)):
        key = ".".join(parts[start:])
        if key in tables.reasons:
            return tables.reasons[key]
        if key in tables.renamed:
            return f"it is called {tables.renamed[key]} here"
    for part in parts:
        for beginning, reason in tables.families.items():
            if part.startswith(beginning):
                return reason
    return None
