"""Names that users of other libraries type, and what they are called here.

Owns the look-up; the names lie in foreign_names.yaml, those of stages that learn from a data set in
foreign_names_supervised.yaml and those of a server in foreign_names_serve.yaml, which are looked up
first for them. A foreign name is refused with the right one, never translated silently: the
defaults around it differ. A name is looked up as it was typed, then without its first parts
(``actor_rollout_ref.rollout.n``, ``rollout.n``, ``n``), so that verl's paths need one entry each.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlpost.config.groups import owners_of, registries
from rlpost.config.options import known_keys
from rlpost.stages.registry import STAGES

# A table of some stages -> an option that only those have.
_OWN_TABLES = {
    "foreign_names_supervised": "examples_per_step",
    "foreign_names_serve": "serve.port",
}


@dataclass(frozen=True, kw_only=True)
class ForeignNames:
    """The tables of foreign_names.yaml."""

    renamed: dict[str, str]  # foreign name -> option
    reasons: dict[str, str]  # foreign name -> what to do instead
    families: dict[str, str]  # beginning of a part of a foreign name -> what to do instead
    choices: dict[str, dict[str, str]]  # group -> foreign name of a choice -> its name here


@functools.cache
def foreign_names(table: str = "foreign_names") -> ForeignNames:
    """Read a table."""
    import yaml

    tables = yaml.safe_load(Path(__file__).with_name(f"{table}.yaml").read_text())
    return ForeignNames(
        renamed=_by_name(tables["renamed"].items()),
        reasons=_by_name(_answers(tables["reasons"])),
        families=_by_name(_answers(tables.get("families", ()))),
        choices={
            group: _by_name(names.items()) for group, names in tables.get("choices", {}).items()
        },
    )


def tables_of(stage: str) -> list[ForeignNames]:
    """Return the tables of a stage, in the order in which they are looked up.

    An answer that names an option which the stage does not have is left out.
    """
    own = [table for table, option in _OWN_TABLES.items() if option in known_keys(stage)]
    exists = {*known_keys(stage), *STAGES[stage].groups}
    return [
        replace(found, renamed={k: v for k, v in found.renamed.items() if v in exists})
        for found in map(foreign_names, [*own, "foreign_names"])
    ]


def _answers(groups: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, list[str]]]:
    return [(group["answer"], group["names"]) for group in groups]


def _by_name(groups: Iterable[tuple[str, list[str]]]) -> dict[str, str]:
    answers: dict[str, str] = {}
    for answer, names in groups:
        for name in names:
            assert name not in answers, f"{name} has two answers"
            answers[name] = answer
    return answers


def foreign_answer(name: str, *, stage: str) -> str | None:
    """Return what to do in ``stage`` instead of ``name``; None where nobody calls anything so."""
    for tables in tables_of(stage):
        if (answer := _answer(name, tables, stage)) is not None:
            return answer
    return None


def foreign_choice(group: str, name: str) -> str | None:
    """Return what the choice ``name`` of another library is called here, as a choice of a group.

    An option that goes with the choice follows it after a space.

    Example: ``sigmoid`` of TRL is the ``loss`` called ``dpo``.
    """
    return foreign_names("foreign_names_supervised").choices.get(group, {}).get(name.lower())


def _answer(name: str, tables: ForeignNames, stage: str) -> str | None:
    parts = name.split(".")
    for start in range(len(parts)):
        key = ".".join(parts[start:])
        if key in tables.reasons:
            return tables.reasons[key]
        if key in tables.renamed:
            option = tables.renamed[key]
            return f"it is called {option} here{_owned(option, stage)}"
    for part in parts:
        for beginning, reason in tables.families.items():
            if part.startswith(beginning):
                return reason
    return None


def _owned(option: str, stage: str) -> str:
    """Return whose option it is, where not every choice of its group has it."""
    owners = owners_of(option, stage=stage)
    groups = {owner.partition("=")[0] for owner in owners}
    every = sum(len(list(registries(stage)[group])) for group in groups)
    return f", an option of {', '.join(owners)}" if len(owners) < every else ""
