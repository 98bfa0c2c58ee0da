"""``rlpost rl``: compose with hydra, check, run."""

import re
import sys
from typing import Any

from rlpost.cli.boundary import exit_code


def main(argv: list[str]) -> int:
    """Compose the configuration from ``argv`` and run the stage; returns the exit code."""
    return exit_code(lambda: _compose_and_run(argv))


def _compose_and_run(argv: list[str]) -> int:
    import hydra
    from omegaconf import DictConfig

    from rlpost.config.search_path import config_dir
    from rlpost.config.store import register_configs

    register_configs()
    codes: list[int] = []
    swept = _swept_keys(argv)

    @hydra.main(config_path=str(config_dir()), config_name="rl", version_base="1.3")
    def task(composed: DictConfig) -> None:
        # A sweep runs several members in turn; one that fails must not stop the others.
        codes.append(exit_code(lambda: _run(composed, swept)))

    sys.argv = ["rlpost rl", *argv]
    task()
    return max(codes, default=0)


def _run(composed: Any, swept: set[str]) -> int:
    from omegaconf import OmegaConf

    from rlpost.config.checks import check_rl
    from rlpost.config.schema import RLConfig

    OmegaConf.resolve(composed)
    name = composed.run.name or "rl"
    composed.run.name = name + _member_suffix(swept)
    cfg = OmegaConf.to_object(composed)
    assert isinstance(cfg, RLConfig)
    check_rl(cfg)
    resolved = OmegaConf.to_container(composed, enum_to_str=True)

    from rlpost.stages.rl_driver import run_rl

    assert isinstance(resolved, dict)
    outcome = run_rl(cfg, resolved)
    print(outcome.message)
    return outcome.exit_code


def _swept_keys(argv: list[str]) -> set[str]:
    """Options that a sweep gives several values, such as ``seed`` in ``seed=1,2``."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    overrides = [each for each in argv if "=" in each and not each.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(overrides)
    return {each.get_key_element() for each in parsed if each.is_sweep_override()}


def _member_suffix(swept: set[str]) -> str:
    """What makes a sweep member's name unique: the options that vary; empty outside a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra_config = HydraConfig.get()
    if hydra_config.mode is not RunMode.MULTIRUN:
        return ""
    varying = [o for o in hydra_config.overrides.task if o.partition("=")[0] in swept]
    text = re.sub(r"[^\w.=+,-]", "_", ",".join(varying))
    if not text or len(text) > 100:  # a directory name has a limit
        text = f"{text[:80]}-{hydra_config.job.num}".lstrip("-")
    return f"-{text}"
