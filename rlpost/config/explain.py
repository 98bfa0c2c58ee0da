"""Hydra's and OmegaConf's errors -> field, value, rule, way out.

Owns the wording. Refuses to decide what is valid.
"""

import difflib
import re

from omegaconf import OmegaConf

from rlpost.config.foreign_names import FOREIGN_NAMES


def explain(error: Exception) -> str:
    """Return one sentence for an error raised while a configuration was composed."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = f"{error}\n{cause}"
    choice = re.search(r"Could not (?:find|load) '([^']+)/([^/']+)'", text)
    if choice:
        return _unknown_choice(group=choice.group(1), name=choice.group(2))
    key = _unknown_key(text)
    if key is not None:
        return _unknown(key)
    first = str(error).strip().splitlines()[0]
    reason = str(cause).strip().splitlines()[0]
    sentence = first if reason in first else f"{first}: {reason}"
    place = re.search(r"full_key: (\S+)", text)
    if place is None or place.group(1) in sentence:
        return sentence
    return f"{place.group(1)}: {sentence}"


def _unknown_key(text: str) -> str | None:
    match = re.search(r"Could not override '([^']+)'", text) or re.search(r"full_key: (\S+)", text)
    is_unknown = re.search(r"is not in struct|not in '", text)
    return match.group(1) if match and is_unknown else None


def _unknown(key: str) -> str:
    foreign = FOREIGN_NAMES.get(key) or FOREIGN_NAMES.get(key.rpartition(".")[2])
    if foreign:
        return f"{key} is not an option of rlpost; it is called {foreign} here"
    if re.match(r"reward_models\.\w+\.", key):
        return f"{key} has to be added, for models go by names of your choice: +{key}=VALUE"
    close = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{key} is not an option{hint} (`rlpost rl --cfg job` lists all)"


def _unknown_choice(*, group: str, name: str) -> str:
    from rlpost.config.search_path import config_dir
    from rlpost.config.store import registries

    known = {entry.name for entry in registries().get(group, ())}
    known |= {path.stem for path in (config_dir() / group).glob("*.yaml")}
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{group} must be one of {', '.join(sorted(known))}, got {name!r}{hint}"


def known_keys() -> list[str]:
    """Return every option of the RL stage as a dotted path."""
    from rlpost.config.schema import RLConfig
    from rlpost.config.store import option_path, registries
    from rlpost.training.reward_settings import RewardModelConfig

    keys = list(_flat(OmegaConf.to_container(OmegaConf.structured(RLConfig)), ""))
    model = OmegaConf.to_container(OmegaConf.structured(RewardModelConfig))
    keys += _flat(model, "reward_models.NAME.")
    for group, registry in registries().items():
        for entry in registry:
            fields = OmegaConf.to_container(OmegaConf.structured(entry.config))
            keys += _flat(fields, f"{option_path(group, entry.name)}.")
    return sorted(set(keys))


def _flat(tree: object, prefix: str) -> list[str]:
    if not isinstance(tree, dict):
        return []
    keys = []
    for key, value in tree.items():
        nested = _flat(value, f"{prefix}{key}.")
        keys += nested or [f"{prefix}{key}"]
    return keys
