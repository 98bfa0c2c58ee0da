"""What a stage's YAML chooses and sets, read without hydra.

Owns the reading for help pages, which must not wait for hydra. Refuses to own composition: a test
holds this to what hydra composes of a stage without overrides. Invariant: values are leaves.
"""

from collections.abc import Mapping
from typing import Any

from rlpost.config.groups import FILES
from rlpost.config.search_path import config_dir


def flat(tree: object, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries by their dotted paths; an empty one is a leaf."""
    if not isinstance(tree, Mapping) or not tree:
        return {prefix.removesuffix("."): tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.")
    return leaves


def yaml_defaults(stage: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return path -> value and group -> what is chosen from it, without any override."""
    own, chosen = read_choices(stage)
    values: dict[str, Any] = {}
    for group in FILES:
        if chosen.get(group):
            below, choices = read_choices(f"{group}/{chosen[group]}")
            values |= {f"{group}.{path}": value for path, value in below.items()}
            chosen |= {f"{group}/{name}": choice for name, choice in choices.items()}
    return {**values, **own}, chosen


def read_choices(place: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return values and choices of one file, and of the files that it is made of."""
    import yaml

    tree = yaml.safe_load((config_dir() / f"{place}.yaml").read_text()) or {}
    values: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    for each in tree.pop("defaults", []):
        if isinstance(each, Mapping):
            for group, name in each.items():
                chosen[str(group).removeprefix("override ")] = name
        elif (config_dir() / f"{each}.yaml").is_file():
            below, choices = read_choices(each)
            values, chosen = values | below, chosen | choices
    tree.pop("hydra", None)
    return (values | flat(tree) if tree else values), chosen
