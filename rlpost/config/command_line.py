"""What may stand on a stage's command line, before hydra composes anything.

Owns flags, the grammar of overrides and the part of hydra's own options that people may set.
Refuses to own which options exist (convert.py) and the names of other libraries
(foreign_names.yaml). Invariant: what passes can be composed or fails in words; nothing is written.
"""

import argparse
import re
import shlex
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Glob, RangeSweep

from rlpost.config.explain import known_choices, unknown_choice, unknown_option
from rlpost.config.foreign_names import foreign_answer
from rlpost.config.options import known_keys
from rlpost.config.quoting import quoted
from rlpost.config.recipes import fitting, general
from rlpost.config.store import register_configs
from rlpost.errors import UserError
from rlpost.stages.registry import STAGES

# hydra's flags; of --experimental-rerun, which loads a pickle, there is none on purpose.
_FLAGS = frozenset({
    "-m", "--multirun", "-r", "--run", "-c", "--cfg", "-p", "--package", "--resolve",
    "-i", "--info", "-h", "--help", "--hydra-help", "--version", "-sc", "--shell-completion",
    "-cd", "--config-dir", "-cn", "--config-name", "-cp", "--config-path",
})  # fmt: skip
_HYDRA = re.compile(r"hydra([./](launcher|sweeper)\b|\.searchpath$)")
_MOST_VALUES = 10**6  # of one range of a sweep


def read_command_line(argv: Sequence[str], *, stage: str) -> argparse.Namespace:
    """Return hydra's reading of ``argv``: its flags, and ``overrides``, which may stand anywhere.

    Raises:
        UserError: names the word, the rule and what to type instead.
    """
    from hydra._internal.utils import get_args_parser

    register_configs(stage)  # whose groups the overrides may name
    for word in argv:
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise UserError(
                f"{word!a} is not UTF-8 text, which config.yaml could not record; rename what it "
                "names"
            )
        if word.startswith("-") and word.partition("=")[0] not in _FLAGS:
            raise UserError(_unknown_flag(word, stage=stage))
    parser = get_args_parser()
    parser.exit_on_error = False  # else it prints all flags of hydra, and ends the process
    try:
        args = parser.parse_intermixed_args(list(argv))
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; `rlpost {stage} --help` shows the flags") from error
    if args.multirun and args.cfg is not None:
        raise UserError(
            "--cfg prints one configuration and -m makes several; leave -m out, and give each "
            "option one value"
        )
    for override in args.overrides:
        check_override(override, stage=stage)
    return args


def check_override(text: str, *, stage: str) -> None:
    """Refuse an override that hydra cannot read, that adds an option, or moves hydra's files.

    Raises:
        UserError: names the override and what to type instead.
    """
    override = _parsed(text)
    group = override.key_or_group
    if group.startswith("hydra") and not _HYDRA.match(group):
        raise UserError(
            f"{group} is an option of hydra that has no place here; run.dir and run.name say where "
            "a run lives, hydra/launcher and hydra/sweeper how a sweep runs"
        )
    if (override.is_add() or override.is_force_add()) and not _may_be_added(group, stage):
        raise UserError(unknown_option(group, stage=stage))
    known = known_choices(group, stage=stage)
    named = group.startswith(
        (
            "reward_models.",
            "verifiers.",
            "algorithm.corrections.",
            "data.sources.",
            "data.columns.",
            "data.chat_template_kwargs.",
            "adapters.",
        )
    )
    _refuse_twice(text, override)
    if override.is_delete() and not named and not known:
        raise UserError(
            f"~{group} cannot be removed: every option has a value; leave the override out to get "
            "the default"
        )
    if override.is_sweep_override():
        _check_sweep(text, override, known)
    if known and not (override.is_delete() or override.is_sweep_override()):
        _check_choice(group, override.value(), stage)
        _check_recipe(group, override.value(), stage)


def _refuse_twice(text: str, override: Any) -> None:
    """Refuse a dictionary that has a key twice, of which hydra would take the last silently."""
    if not isinstance(getattr(override, "_value", None), dict):
        return
    keys = re.findall(r"[{,]\s*([^\s{},:'\"]+)\s*:", text.partition("=")[2])
    twice = sorted({key for key in keys if keys.count(key) > 1})
    nested = any(isinstance(each, dict) for each in override._value.values())
    if twice and not nested:
        raise UserError(f"{override.key_or_group} has {twice[0]} twice; give each name once")


def _may_be_added(key: str, stage: str) -> bool:
    """Whether ``+key=...`` can lead to an option; what was composed is checked once more."""
    known = known_keys(stage)
    place = general(key)
    leads_to = any(each == place or each.startswith(f"{place}.") for each in known)
    choices = known_choices(key, stage=stage)
    return leads_to or bool(choices) or key.startswith(("hydra", "algorithm.corrections."))


def _check_sweep(text: str, override: Any, known: Sequence[str]) -> None:
    """Refuse what gives a sweep no value at all, or values without end."""
    swept = override.value()
    if isinstance(swept, Glob) and not swept.filter(list(known)):
        raise UserError(
            f"{text} matches no name; glob() chooses among those of a group such as experiment "
            "or loss"
        )
    if isinstance(swept, RangeSweep):
        length, step = (swept.stop or 0) - (swept.start or 0), swept.step
        if not length * step > 0:
            raise UserError(
                f"{text} holds no value; write range(START,STOP,STEP) with a STEP that leads from "
                "START towards STOP"
            )
        if abs(length) > _MOST_VALUES * abs(step):
            raise UserError(
                f"{text} has more than {_MOST_VALUES} values; write a range of fewer, or search "
                "with sweep=optuna"
            )


def _check_choice(group: str, value: Any, stage: str) -> None:
    names = value if isinstance(value, list) else [value]
    known = ", ".join(known_choices(group, stage=stage))
    if value is None:
        raise UserError(f"{group}=null chooses nothing; leave it out, or give one of {known}")
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"{group} must be one of {known}, got {name!r}")
        if not re.fullmatch(r"(\w[\w.-]*(/\w[\w.-]*)*)?", name):
            raise UserError(unknown_choice(group, name, stage=stage))


def _check_recipe(group: str, value: Any, stage: str) -> None:
    """Refuse a file of choices that other stages can use, and this one cannot."""
    for name in value if isinstance(value, list) else [value]:
        theirs = [each for each in STAGES if name in fitting(group, stage=each)]
        if theirs and stage not in theirs:
            have = ", ".join(fitting(group, stage=stage))
            raise UserError(
                f"{group}={name} is for rlpost {', '.join(theirs)}: it sets what rlpost {stage} "
                f"does not have; there it is one of {have}"
            )


def _parsed(text: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        if text.partition("=")[0]:
            return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UserError(_how_to_quote(text)) from error
    raise UserError(_how_to_quote(text))


def _how_to_quote(text: str) -> str:
    key, equals, value = text.partition("=")
    if not (key and equals):
        return (
            f"{text!r} is not of the form key=value; if it belongs to the value before it, quote "
            "that value: 'key=\"two words\"'"
        )
    if not re.fullmatch(r"(\+\+?|~)?[\w$-]+([./@:][\w$-]+)*", key):
        return f"{text!r} is not of the form key=value: {key!r} is no name of an option"
    in_marks = quoted(value, mark='"')
    word = shlex.quote(f"{key}={in_marks}")
    return (
        f"{key} has a value that must be quoted, for it holds characters with a meaning of their "
        f"own, got {value!r}; type {word}"
    )


def _unknown_flag(word: str, *, stage: str) -> str:
    name, _, value = word.lstrip("-").partition("=")
    name = name.replace("-", "_")
    if name in known_keys(stage):
        return f"{word}: options have no dashes here; type {name}={value or 'VALUE'}"
    if (answer := foreign_answer(name, stage=stage)) is not None:
        return f"{word.partition('=')[0]} is not an option of rlpost; {answer}"
    return f"{word.partition('=')[0]}: {unknown_option(name, stage=stage)}"
