"""Which files of choices a stage can use: ``experiment=NAME``, ``cluster=NAME`` and the like.

Owns the reading of these files for help pages and messages, which must not wait for hydra.
Refuses to own composition. Invariant: a file is offered to a stage only if everything that it
chooses and sets exists there.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

from rlpost.config.groups import FILES, registries
from rlpost.config.options import known_keys
from rlpost.config.search_path import config_dir
from rlpost.config.stage_yaml import read_choices

_GLOBAL = "# @package _global_"
# Dictionaries that are empty until people add to them, which they may do without hydra's +.
ADDED_WITHOUT_PLUS = ("data.sources", "data.columns", "data.chat_template_kwargs", "adapters")


@functools.cache
def fitting(group: str, *, stage: str) -> Mapping[str, str]:
    """Return the names of a group's files that ``stage`` can use.

    Each comes with the first sentence of its comment. A group without files has none.
    """
    paths = sorted((config_dir() / group).glob("*.yaml")) if group in FILES else []
    return {
        path.stem: _first_sentence(path.read_text())
        for path in paths
        if _fits(group, path.stem, stage)
    }


def general(key: str) -> str:
    """Return an option's path with NAME in place of a name of the user's choice.

    An entry of ``data.columns``, ``data.chat_template_kwargs`` or ``adapters``, or of a source's
    ``columns``, is of that option.
    """
    named = re.sub(r"^(reward_models|verifiers|data\.sources)\.[^.]+", r"\1.NAME", key)
    return re.sub(
        r"^(data(\.sources\.NAME)?\.columns|data\.chat_template_kwargs|adapters)\..*",
        r"\1",
        named,
    )


def with_plus(override: str) -> str:
    """Return an override in the form that hydra adds a name of the user's choice with."""
    key = override.partition("=")[0]
    free = any(key == place or key.startswith(f"{place}.") for place in ADDED_WITHOUT_PLUS)
    return f"++{override}" if free else override


def _fits(group: str, name: str, stage: str) -> bool:
    path = config_dir() / group / f"{name}.yaml"
    if not path.is_file():
        return False
    values, chosen = read_choices(f"{group}/{name}")
    package = "" if path.read_text().startswith(_GLOBAL) else f"{group.replace('/', '.')}."
    known = known_keys(stage)
    return all(general(package + key) in known for key in values) and all(
        _is_choice(choice, picked, group, stage) for choice, picked in chosen.items()
    )


def _is_choice(choice: str, picked: Any, group: str, stage: str) -> bool:
    """Whether a line of a file's defaults list names something that ``stage`` has."""
    place = choice.partition("@")[0]
    chosen = place[1:] if place.startswith("/") else f"{group}/{place}"
    names = picked if isinstance(picked, list) else [picked]
    if chosen.startswith("hydra/") or picked is None:
        return True
    if chosen in FILES:
        return all(_fits(chosen, name, stage) for name in names)
    registry = registries(stage).get(chosen)
    return registry is not None and set(names) <= {entry.name for entry in registry}


def _first_sentence(text: str) -> str:
    comment = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            comment.append(line.removeprefix("#").strip())
    return " ".join(comment).partition(". ")[0].rstrip(".:")
