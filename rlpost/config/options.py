"""The options of a stage as records: section by section, as its dataclasses declare them.

Owns the walk. Refuses to own how they are shown (cli/stage_help.py). Invariant: it needs neither
hydra nor OmegaConf's view of the dataclasses, because reading help must not take a second.
"""

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import NoneType
from typing import Any

from rlpost.bounds import bound_of, help_of
from rlpost.config.groups import COMPOSABLE, option_path, registries
from rlpost.data.supervised import SourceConfig
from rlpost.registry import Registry
from rlpost.stages.registry import STAGES
from rlpost.training.reward.settings import RewardModelConfig

# Dictionaries of dataclasses, to which people add by names of their own choice.
NAMED: Mapping[str, type] = {"reward_models": RewardModelConfig, "data.sources": SourceConfig}


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option.

    Example: ``Option(path="trainer.lr", kind="float in (0, 1]", default=1e-6, help="...")``
    """

    path: str
    kind: str
    default: Any
    help: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """Options of one dataclass."""

    name: str
    help: str
    options: tuple[Option, ...]
    group: str | None = None  # a group of registered variants, of which one or several are chosen
    choices: Mapping[str, str] = dataclasses.field(default_factory=dict)  # these, with their lines


def sections_of(stage: str, chosen: Mapping[str, Any]) -> list[Section]:
    """Return the sections of a stage's options in the order in which they are declared.

    Args:
        stage: its name.
        chosen: group -> the name, or names, of the variants whose options are shown.
    """
    config = STAGES[stage].part("config")
    order = {declared.name: place for place, declared in enumerate(dataclasses.fields(config))}
    found = _sections(config, registries(stage), chosen)
    return sorted(found, key=lambda each: order.get(each.name.partition(".")[0], -1))


def _sections(
    config: type, groups: Mapping[str, Registry], chosen: Mapping[str, Any]
) -> Iterator[Section]:
    group_at = {group.replace("/", "."): group for group in groups}
    for name, help_line, options in _dataclasses(config, "", "General"):
        plain = tuple(each for each in options if each.path not in group_at)
        if plain:
            yield Section(name=name, help=help_line, options=plain)
        for each in options:
            if each.path in group_at:
                group = group_at[each.path]
                yield _group_section(group, each, groups[group], chosen)
            elif each.path in NAMED:
                named = f"{each.path}.NAME"
                for inner, line, fields in _dataclasses(NAMED[each.path], named, each.help):
                    yield Section(name=inner, help=line, options=tuple(fields))


def summary(config: type) -> str:
    """Return the first line of a dataclass's docstring."""
    return (config.__doc__ or "").strip().splitlines()[0].rstrip(".").replace("``", "`")


def every_path(stage: str) -> Iterator[str]:
    """Yield the paths of a stage's options, those of every registered variant among them."""
    config = STAGES[stage].part("config")
    roots = [(config, "")]
    roots += [(each, f"{place}.NAME") for place, each in named_options(config).items()]
    for group, registry in registries(stage).items():
        if group == "verifier":
            roots += [(entry.config, "verifiers.NAME") for entry in registry]
        roots += [(entry.config, option_path(group, entry.name)) for entry in registry]
    for root, path in roots:
        for _, _, options in _dataclasses(root, path, ""):
            yield from (each.path for each in options)
    yield from (f"{path}.kind" for root, path in roots if hasattr(root, "kind"))


def named_options(config: type) -> dict[str, type]:
    """Return the places below ``config`` to which people add by name, and what they add."""
    own = {each.path for _, _, options in _dataclasses(config, "", "") for each in options}
    return {place: each for place, each in NAMED.items() if place in own}


@functools.cache
def known_keys(stage: str) -> tuple[str, ...]:
    """Return every option of a stage as a dotted path."""
    return tuple(sorted(set(every_path(stage))))


def _group_section(
    group: str, option: Option, registry: Registry, chosen: Mapping[str, Any]
) -> Section:
    names = chosen.get(group) or ([] if group in COMPOSABLE else None)  # None: nothing is chosen
    choice = dataclasses.replace(
        option,
        path=group,
        kind="|".join(entry.name for entry in registry),
        default=names,
    )
    below: list[Option] = []
    for name in names if isinstance(names, list) else [names]:
        if name:
            config = registry.get(name).config
            for _, _, options in _dataclasses(config, option_path(group, name), ""):
                below += options
    return Section(
        name=option.path,
        help=option.help,
        options=(choice, *below),
        group=group,
        choices={entry.name: summary(entry.config) for entry in registry},
    )


def _dataclasses(
    config: type, path: str, help_line: str
) -> Iterator[tuple[str, str, list[Option]]]:
    """Yield path, line and own options of ``config`` and of every dataclass below it."""
    hints, own, below = typing.get_type_hints(config), [], []
    for declared in dataclasses.fields(config):
        annotation = hints[declared.name]
        place = f"{path}.{declared.name}" if path else declared.name
        if dataclasses.is_dataclass(annotation):
            assert isinstance(annotation, type)
            below.append((annotation, place, summary(annotation)))
        elif declared.name != "kind" and not declared.metadata.get("omegaconf_ignore"):
            own.append(_option(declared, annotation, place))
    yield path, help_line, own
    for each in below:
        yield from _dataclasses(*each)


def _option(declared: Any, annotation: Any, path: str) -> Option:
    default = declared.default
    if declared.default_factory is not dataclasses.MISSING:
        default = declared.default_factory()
    bound = bound_of(declared)
    kind = _kind(annotation) if bound is None else f"{_kind(annotation)} in {bound}"
    optional = NoneType in typing.get_args(annotation)
    return Option(
        path=path,
        kind=f"{kind} or null" if optional else kind,
        default=default,
        help=help_of(declared),
    )


def _kind(annotation: Any) -> str:
    """Example: ``float``, ``auto|cpu|cuda``, ``true|false``, ``list of str``."""
    parts = [each for each in typing.get_args(annotation) if each is not NoneType]
    if typing.get_origin(annotation) is list:
        return f"list of {_kind(parts[0])}"
    if typing.get_origin(annotation) is dict:
        return "options by name"
    if parts:
        return _kind(parts[0])
    if annotation is bool:
        return "true|false"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(each.name for each in annotation)
    return "str or list of str" if annotation is Any else str(annotation.__name__)
