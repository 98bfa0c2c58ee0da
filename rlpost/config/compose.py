"""A command line -> the checked configuration, without hydra's own main function.

Owns the order: words, composition, conversion, rules. Invariant: nothing is written.
"""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlpost.config.checks import check_rl
from rlpost.config.command_line import check_command_line
from rlpost.config.convert import to_rl_config
from rlpost.config.schema import RLConfig
from rlpost.config.search_path import config_dir
from rlpost.config.store import register_configs


def compose_rl(overrides: Sequence[str], *, stage: str) -> tuple[RLConfig, dict[str, Any]]:
    """Return what ``rlpost <stage> <overrides>`` would run, as objects and as plain data.

    Raises:
        UserError, HydraException, OmegaConfBaseException: the configuration cannot work.
    """
    from hydra import compose, initialize_config_dir

    register_configs()
    check_command_line(overrides)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        composed = compose(stage, list(overrides))
    return checked(composed, stage=stage)


def checked(composed: DictConfig, *, stage: str) -> tuple[RLConfig, dict[str, Any]]:
    """Convert and check a composed configuration; a run without a name has that of its stage."""
    run = OmegaConf.select(composed, "run")
    if run is not None and run.name is None:
        run.name = stage
    cfg, resolved = to_rl_config(composed)
    check_rl(cfg)
    return cfg, resolved
