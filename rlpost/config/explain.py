"""Hydra's and OmegaConf's errors -> field, value, rule, way out.

Owns the wording, and the names that exist. Refuses to decide what is valid.
"""

import difflib
import re
from collections.abc import Sequence

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from rlpost.config.foreign_names import foreign_answer, foreign_choice
from rlpost.config.groups import owners_of, registries
from rlpost.config.options import known_keys
from rlpost.config.recipes import general
from rlpost.errors import UserError

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)

# What OmegaConf says of a value of the wrong shape -> what follows the option's name.
_SHAPES = {
    r"field '.*' is not Optional": "cannot be null; leave it out to get the default",
    r"\w+ is not a ListConfig|DictConfig with ListConfig(.|\n)*=List\[": (
        "must be a list, such as [A,B]"
    ),
    r"Invalid type assigned: \w+ is not a subclass of \w+Config|DictConfig with ListConfig": (
        "holds options of its own; give one of them, as in trainer.lr=1e-5"
    ),
    r"Cannot convert '(dict|list)' to string|of type '(dict|list)' could|\(list\) is not a valid": (
        "takes a single value, no list and no options below it"
    ),
}


def explain(error: Exception, *, stage: str) -> str:
    """Return one sentence for an error raised while ``stage``'s configuration was composed."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, UserError):  # of a launcher or sweeper, which hydra calls
        return str(cause)
    if isinstance(cause, YAMLError):
        return _broken_file(cause)
    text = f"{error}\n{cause}"
    choice = re.search(r"Could not (?:find|load) '([^']+)/([^/']*)'", text)
    if choice:
        return unknown_choice(choice.group(1), choice.group(2), stage=stage)
    key = _unknown_key(text)
    if key is not None:
        return f"{_file_of(text)}{unknown_option(key, stage=stage)}"
    absent = re.search(r"Could not override '([^']+)'. No match in the defaults list", text)
    if absent:
        return _absent_group(absent[1], stage=stage)
    several = re.search(r"Ambiguous value for argument '([^=']+)=", text)
    if several:
        return (
            f"{several[1]} has several values, which make a sweep: add -m; or quote the value if "
            "it is one"
        )
    there = re.search(r"Could not append to config. An item is already at '([^']+)'", text)
    if there:
        return f"{there[1]} has a value already; give {there[1]}=VALUE, without +"
    twice = re.search(
        r"(\S+) appears more than once in the final|Multiple values for (\S+)\.", text
    )
    if twice:
        group = twice[1] or twice[2]
        return f"{group} is chosen twice; give {group}=NAME once, without +"
    return _plain(error, cause, text)


def _plain(error: Exception, cause: BaseException, text: str) -> str:
    first, reason = _sentence(error), _sentence(cause)
    elsewhere = re.match(r"(?s)In '([^']+)/\w+'.*Merge error: \w+Config is not a subclass of", text)
    if elsewhere:
        return _one_place(elsewhere[1])
    whole = re.search(r"Merge error: \w+ is not a subclass of \w+Config\. value: ([^{].*)", text)
    if whole:
        return (
            f"{_file_of(text)}a section, which holds options of its own, is given the value "
            f"{whole[1]:.100}; give one of its options, as in trainer: {{lr: 1e-5}}"
        )
    place = re.search(r"full_key: (\S+)", text)
    for said, meant in _SHAPES.items():
        if place is not None and re.search(said, str(cause)):
            return f"{place[1]} {meant}"
    absent = re.match(r"Could not override '([^'@]+)@", first)
    if absent:
        return _one_place(absent[1])
    override = re.match(r"Error merging override ([^=\s]+)", first)
    if override:
        return f"{override[1].lstrip('+~')}: {reason}"
    sentence = first if reason in first else f"{first}: {reason}"
    if place is None or place.group(1) in sentence:
        return sentence
    return f"{place.group(1)}: {sentence}"


def _one_place(group: str) -> str:
    more = ", or +verifier@verifiers.NAME=KIND to add one" if group == "verifier" else ""
    return f"{group} has one place in the configuration; give {group}=NAME, without @{more}"


def _broken_file(error: YAMLError) -> str:
    """Return where a YAML of the user's cannot be read, and why."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return f"a YAML file cannot be read: {_sentence(error)}"
    mark = error.problem_mark
    return f"{mark.name}:{mark.line + 1}: {error.problem}; mend the file, which is no YAML so"


def _sentence(error: BaseException) -> str:
    """Return the first line of a message, with the second where the first announces it."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def _file_of(text: str) -> str:
    """Return which YAML an error came from, as the beginning of a sentence."""
    match = re.match(r"In '([^']+)'", text)
    return f"{match[1]}.yaml: " if match else ""


def _unknown_key(text: str) -> str | None:
    key = re.search(r"Key '([^']*)' (?:is not in struct|not in ')", text)
    if key is None:
        return None
    place = re.search(r"full_key: (\S+)", text)
    override = re.search(r"Could not override '([^']+)'", text)
    named = [match[1] for match in (override, place) if match]
    return max(named, key=len) if named else key[1]


def unknown_option(key: str, *, stage: str) -> str:
    """Return what to say of an option that ``stage`` does not have."""
    known = known_keys(stage)
    every = f"`rlpost {stage} --help` lists all"
    if owners := owners_of(key, stage=stage):
        return f"{key} is not an option of what is chosen here, but of {', '.join(owners)}"
    answer = foreign_answer(key, stage=stage)
    if answer is not None:
        return f"{key} is not an option of rlpost; {answer}"
    model = re.match(r"reward_models\.(\w+)\.(.+)", key)
    if model and f"reward_models.NAME.{model[2]}" in known:
        return f"{key} has to be added, for models go by names of your choice: +{key}=VALUE"
    verifier = re.match(r"verifiers\.([^.]+)\.(.+)", key)
    if verifier and f"verifiers.NAME.{verifier[2]}" in known:
        return (
            f"{key} belongs to no verifier that is chosen, or not to its kind; choose one with "
            f"+verifier@verifiers.{verifier[1]}=KIND"
        )
    correction = re.match(r"algorithm\.corrections\.(\w+)\.", key)
    if key in known and correction:
        return (
            f"{key} belongs to a correction that is not chosen; give "
            f"algorithm/corrections=[{correction[1]}]"
        )
    if key in known:
        return f"{key} is not an option of what is chosen here ({every})"
    close = _closest(general(key), known)
    hint = f"; did you mean {close}?" if close else ""
    return f"{key} is not an option{hint} ({every})"


def _absent_group(group: str, *, stage: str) -> str:
    if known := known_choices(group, stage=stage):
        return f"{group} is not chosen yet; write +{group}=NAME with one of {', '.join(known)}"
    return unknown_option(group, stage=stage)


def _closest(key: str, every: Sequence[str]) -> str | None:
    """Return the option that was probably meant: nearly the same, or the same in another place."""
    # Every option of verifiers.NAME is one of verifier, too.
    known = [each for each in every if not each.startswith("verifiers.")]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.85)
    if close:
        return close[0]
    name = key.rpartition(".")[2]
    if name in ("name", "path", "kind"):  # they say nothing about what was meant
        return None
    alike = [each for each in known if each.rpartition(".")[2] == name]
    return alike[0] if len(alike) == 1 else None


def unknown_choice(group: str, name: str, *, stage: str) -> str:
    """Return the sentence about a choice that a group does not have."""
    known = known_choices(group, stage=stage)
    close = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    ours = foreign_choice(group, name)
    if ours is not None and ours.split()[0] in known:
        hint = f"; it is called {ours} here"
    return f"{group} must be one of {', '.join(known)}, got {name!r}{hint}"


def known_choices(group: str, *, stage: str) -> list[str]:
    """Return the names that may be chosen from a group; none where there is no such group."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.object_type import ObjectType

    from rlpost.config.recipes import fitting

    known = {entry.name for entry in registries(stage).get(group, ())}
    known |= set(fitting(group, stage=stage))
    store = ConfigStore.instance()
    if group.startswith("hydra/") and store.get_type(group) is ObjectType.GROUP:
        known |= {name.removesuffix(".yaml") for name in store.list(group)}
    return sorted(known)
