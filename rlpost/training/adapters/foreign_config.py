"""What an ``adapter_config.json`` that somebody else wrote may say.

Owns the rules on its numbers, its patterns and the settings with which a module computes something
else. Refuses to own reading (directory.py) and what kind of adapter it is (registry.py). Invariant:
with a configuration that passes, peft and the arithmetic here compute the same, and neither
computes for ever. Imports neither torch nor peft.
"""

import re
from collections.abc import Mapping
from typing import Any

from rlpost.errors import UserError
from rlpost.training.adapters.config import MOST_ALPHA, MOST_RANK

_RANKS = {"LORA": ("r",), "ADALORA": ("init_r", "target_r"), "VERA": ("r",)}  # by peft's type
# Initial values of LoRA that peft gives without changing the base; the rest do change it.
_HARMLESS_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
# Settings with which a module computes more than a product, or another one.
_UNKNOWN = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "lora_bias",
    "monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora",
    "use_qalora", "velora_config",
)  # fmt: skip
_MOST_REPETITIONS = 3  # in a pattern: matching takes at most so many powers of a name's length


def require_sound_values(config: Mapping[str, Any], *, field: str) -> None:
    """Refuse numbers of which no adapter can be made, and patterns that may match for ever.

    Types that are not known here pass.

    Raises:
        UserError: names the setting, its value and the rule.
    """
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in _RANKS:
        return
    for name in _RANKS[kind]:
        _require_rank(config.get(name), name, field=field)
    if kind != "VERA":
        _require_alpha(config.get("lora_alpha"), "lora_alpha", field=field)
    if kind == "LORA":  # AdaLoRA's pattern says which ranks are kept, and is no mapping to ranks
        for name, require in (("rank_pattern", _require_rank), ("alpha_pattern", _require_alpha)):
            for pattern, value in _mapping(config.get(name), name, field=field).items():
                _require_pattern(pattern, name, field=field)
                require(value, f"{name}[{pattern!r:.100}]", field=field)
    for name in ("target_modules", "exclude_modules", "layers_pattern"):
        value = config.get(name)
        for pattern in value if isinstance(value, list) else [] if value is None else [value]:
            _require_pattern(pattern, name, field=field)


def require_known_settings(config: Mapping[str, Any], *, field: str) -> None:
    """Refuse settings with which an adapter is more than a product beside a weight of its base.

    Raises:
        UserError: names the setting and the way out.
    """
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _HARMLESS_STARTS:
        raise UserError(
            f"{field}: it was saved with init_lora_weights={start!r:.100}, so it belongs to a base "
            "from which its first value was subtracted, and on the original base it is wrong; save "
            "it again with peft's path_initial_model_for_weight_conversion"
        )
    for name in _UNKNOWN:
        if config.get(name):
            raise UserError(
                f"{field}: it has the setting {name}={config[name]!r:.100}, which is not known "
                "here; merge it with peft: merge_and_unload(), then save_pretrained()"
            )


def require_finite(tensors: Mapping[str, Any], *, field: str) -> None:
    """Raises UserError: a tensor holds values that are not finite numbers."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"{field}: {name} holds values that are not finite numbers, so the adapter was "
                "damaged when it was trained or written; use another copy of it"
            )


def _require_rank(value: Any, name: str, *, field: str) -> None:
    if type(value) is not int or not 1 <= value <= MOST_RANK:
        raise UserError(
            f"{field}: {name} in its adapter_config.json must be a whole number in "
            f"[1, {MOST_RANK}], got {value!r:.100}; use another copy of the adapter"
        )


def _require_alpha(value: Any, name: str, *, field: str) -> None:
    if type(value) not in (int, float) or not 0 < value <= MOST_ALPHA:  # no NaN is
        raise UserError(
            f"{field}: {name} in its adapter_config.json must be a number in (0, {MOST_ALPHA}], "
            f"got {value!r:.100}; use another copy of the adapter"
        )


def _mapping(value: Any, name: str, *, field: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise UserError(
            f"{field}: {name} in its adapter_config.json must map names of modules to numbers, got "
            f"{value!r:.100}; use another copy of the adapter"
        )
    return value or {}


def _require_pattern(pattern: Any, name: str, *, field: str) -> None:
    """Refuse an expression that does not compile, or whose matching may take for ever."""
    try:
        re.compile(pattern)
    except (TypeError, re.error, RecursionError, OverflowError):
        fault = "is no name and no regular expression"
    else:
        if not re.search(r"\)[*+?{]", pattern) and _repetitions(pattern) <= _MOST_REPETITIONS:
            return
        fault = "repeats a group, or repeats too often, so that to match a name may take for ever"
    raise UserError(
        f"{field}: {name} in its adapter_config.json has {pattern!r:.100}, which {fault}; give "
        "names of modules instead"
    )


def _repetitions(pattern: str) -> int:
    return len(re.findall(r"(?<!\\)[*+{]", pattern))
