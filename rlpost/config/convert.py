"""The composed configuration -> dataclasses, once.

Owns the conversion, and the proof that nothing is lost in it. Invariants: what comes out holds no
OmegaConf object; every key that was written, in whatever way (``+``, ``++``, a YAML), is a field
of a dataclass, and every field is there.
"""

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from rlpost.config.explain import unknown_option
from rlpost.config.groups import COMPOSABLE, registries
from rlpost.config.options import named_options
from rlpost.config.recipes import ADDED_WITHOUT_PLUS
from rlpost.config.stage_yaml import flat
from rlpost.errors import UserError
from rlpost.registry import Registry
from rlpost.stages.registry import STAGES

_SECRET = re.compile(r"\$\{oc\.env:\s*(\w*(?:KEY|TOKEN|SECRET|PASSW|CREDENTIAL)\w*)", re.IGNORECASE)


def to_config(composed: DictConfig, *, stage: str) -> tuple[Any, dict[str, Any]]:
    """Return the configuration of a stage as objects of its dataclasses and as plain data.

    Models and sources are added by name (``+reward_models.NAME.path=PATH``), which hydra cannot do
    to a dictionary of dataclasses, so their types are put in here. ``verifier`` may have been
    removed where ``verifiers`` or ``reward_models`` hold some.

    Raises:
        UserError: an option does not exist, was removed, or would record a secret.
        OmegaConfBaseException: a value has the wrong type or cannot be resolved.
    """
    _refuse_secrets(composed)
    _resolve(composed)
    kind = STAGES[stage].part("config")
    declared = {each.name for each in fields(kind)}
    for place, each in named_options(kind).items():
        _type_named(composed, place, each)
    if "verifiers" in declared:
        _check_verifiers(composed, registries(stage)["verifier"])
    _refuse_strangers(composed, "", stage=stage)
    for group, registry in registries(stage).items():
        _refuse_unregistered(composed, group, registry, stage=stage)
    cfg = OmegaConf.to_object(composed)
    assert isinstance(cfg, kind)
    resolved = OmegaConf.to_container(composed, enum_to_str=True)
    assert isinstance(resolved, dict)
    return cfg, {str(key): value for key, value in resolved.items()}


def _refuse_secrets(composed: DictConfig) -> None:
    found = _SECRET.search(str(OmegaConf.to_container(composed, resolve=False)))
    if found:
        raise UserError(
            f"${{oc.env:{found[1]}}} would write a secret into config.yaml, the report and the "
            "trackers; leave it in the environment, and name it in verifier.env if a reward "
            "function needs it"
        )


def _resolve(composed: DictConfig) -> None:
    try:
        OmegaConf.resolve(composed)
    except InterpolationResolutionError as error:
        unresolved = flat(OmegaConf.to_container(composed, resolve=False))
        written = {key: text for key, text in unresolved.items() if "${" in str(text)}
        place = next((key for key in written if not _resolves(composed, key)), "")
        raise UserError(
            f"{place}={written.get(place)} cannot be resolved: {str(error).splitlines()[0]}; quote "
            "a $ that is meant as it is with a backslash"
        ) from error


def _resolves(composed: DictConfig, key: str) -> bool:
    try:
        OmegaConf.select(composed, key, throw_on_resolution_failure=True)
    except InterpolationResolutionError:
        return False
    return True


def _type_named(composed: DictConfig, place: str, kind: type[Any]) -> None:
    """Give what was added by name to the dictionary at ``place`` the type ``kind``."""
    named = OmegaConf.select(composed, place)
    plus = "" if place in ADDED_WITHOUT_PLUS else "+"
    if not isinstance(named, DictConfig):
        raise UserError(
            f"{place} must hold options by names of your choice, got {named!r}; add one with "
            f"{plus}{place}.NAME.path=PATH"
        )
    for name in map(str, named):
        options = named[name]
        if not isinstance(options, DictConfig):
            raise UserError(
                f"{place}.{name} must hold options, got {options!r}; give "
                f"{plus}{place}.{name}.path=PATH"
            )
        # The parents give errors the full path of a field.
        parent = OmegaConf.create({})
        OmegaConf.update(parent, f"{place}.{name}", OmegaConf.structured(kind), force_add=True)
        typed = OmegaConf.select(parent, f"{place}.{name}")
        typed.merge_with(options)
        named[name] = typed


def _check_verifiers(composed: DictConfig, registry: Registry) -> None:
    """Check the verifiers with names of their own; without a ``verifier`` it becomes None."""
    named = composed.verifiers
    for name in map(str, named):
        choice = f"+verifier@verifiers.{name}"
        _check_choice(named[name], f"verifiers.{name}", choice, registry)
    if _has_other_judges(composed) and OmegaConf.is_missing(composed, "verifier"):
        composed.verifier = None


def _has_other_judges(composed: DictConfig) -> bool:
    """Whether somebody judges without ``verifier``; not every stage takes reward models."""
    return bool(composed.verifiers or composed.get("reward_models"))


def _refuse_strangers(node: DictConfig, path: str, *, stage: str) -> None:
    """Raise UserError for a key that is no field, and for a field that is no key."""
    kind = OmegaConf.get_type(node)
    if is_dataclass(kind):
        settings = [each for each in fields(kind) if not each.metadata.get("omegaconf_ignore")]
        names = {declared.name for declared in settings}
        for key in map(str, node):
            if key not in names:
                raise UserError(unknown_option(f"{path}{key}", stage=stage))
        for name in sorted(names - set(node)):
            raise UserError(
                f"~{path}{name} cannot be removed: every option has a value; leave the override "
                "out to get the default"
            )
    for key in map(str, node):
        if OmegaConf.is_dict(node._get_node(key)):
            _refuse_strangers(node[key], f"{path}{key}.", stage=stage)
        elif OmegaConf.is_list(node._get_node(key)):
            _refuse_nested(node[key] or [], f"{path}{key}")


def _refuse_nested(values: Sequence[Any], path: str) -> None:
    """Raise UserError for a list or mapping in a list, which OmegaConf takes for a string."""
    for index, value in enumerate(values):
        if OmegaConf.is_config(value):
            raise UserError(
                f"{path}[{index}] must be a single value, got {value!s:.100}; write {path}=[A,B]"
            )


def _optional(stage: str) -> set[str]:
    """Return the options of a stage that are null unless something is chosen."""
    return {each.name for each in fields(STAGES[stage].part("config")) if each.default is None}


def _refuse_unregistered(
    composed: DictConfig, group: str, registry: Registry, *, stage: str
) -> None:
    """Raise UserError unless what was chosen from ``group`` is what its registry knows."""
    path = group.replace("/", ".")
    chosen = OmegaConf.select(composed, path)
    if chosen is None and (
        (group == "verifier" and _has_other_judges(composed)) or path in _optional(stage)
    ):
        return
    if group not in COMPOSABLE:
        _check_choice(chosen, path, group, registry)
        return
    if not isinstance(chosen, DictConfig):
        raise UserError(f"{group} must be a list such as {group}=[{_names(registry)[0]}]")
    for name in map(str, chosen):
        _check_choice(chosen[name], f"{path}.{name}", f"{group}=[...]", registry)


def _check_choice(node: Any, path: str, choice: str, registry: Registry) -> None:
    by_type = {entry.config: entry.name for entry in registry}
    kind = OmegaConf.get_type(node) if isinstance(node, DictConfig) else None
    if kind not in by_type:
        got = "null" if node is None else repr(node)
        raise UserError(
            f"{path} is chosen by name, got {got:.100}; give {choice.replace('[...]', '[NAME]')}"
            f"{'' if '[' in choice else '=NAME'} with one of {', '.join(_names(registry))}"
        )
    if node.kind != by_type[kind]:
        raise UserError(
            f"{path}.kind={node.kind} does not change what was chosen, {by_type[kind]}; leave it "
            f"out, and choose with {choice}"
        )


def _names(registry: Registry) -> list[str]:
    return sorted(entry.name for entry in registry)
