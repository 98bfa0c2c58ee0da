"""The composed configuration -> dataclasses, once.

Owns the conversion. Invariant: what comes out holds no OmegaConf object.
"""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlpost.config.schema import RLConfig
from rlpost.training.reward_settings import RewardModelConfig


def to_rl_config(composed: DictConfig) -> tuple[RLConfig, dict[str, Any]]:
    """Return the configuration as objects and as plain data.

    Models are added by name (``+reward_models.NAME.path=PATH``), which hydra cannot do to a
    dictionary of dataclasses, so their types are put in here.

    Raises:
        OmegaConfBaseException: a value has the wrong type or an option does not exist.
    """
    OmegaConf.resolve(composed)
    for name, options in composed.reward_models.items():
        composed.reward_models[name] = _typed(RewardModelConfig, options, name)
    cfg = OmegaConf.to_object(composed)
    assert isinstance(cfg, RLConfig)
    resolved = OmegaConf.to_container(composed, enum_to_str=True)
    assert isinstance(resolved, dict)
    return cfg, {str(key): value for key, value in resolved.items()}


def _typed(config: type, options: Any, name: str) -> Any:
    # The parent gives errors the full path of a field.
    parent = OmegaConf.create({"reward_models": {name: OmegaConf.structured(config)}})
    parent.reward_models[name].merge_with(options)
    return parent.reward_models[name]
