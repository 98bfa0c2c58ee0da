"""``rlpost rl`` and its close relatives: compose with hydra, check, run."""

import re
import sys
from typing import Any

from rlpost.cli.boundary import exit_code


def main(argv: list[str], *, stage: str = "rl") -> int:
    """Compose ``configs/<stage>.yaml`` with ``argv`` and run the loop; returns the exit code."""
    return exit_code(lambda: _compose_and_run(argv, stage))


def _compose_and_run(argv: list[str], stage: str) -> int:
    import hydra
    from omegaconf import DictConfig

    from rlpost.config.search_path import config_dir
    from rlpost.config.store import register_configs

    register_configs()
    codes: list[int] = []
    swept = _swept_keys(argv)

    @hydra.main(config_path=str(config_dir()), config_name=stage, version_base="1.3")
    def task(composed: DictConfig) -> None:
        # A sweep runs several members in turn; one that fails must not stop the others.
        codes.append(exit_code(lambda: _run(composed, swept, stage)))

    sys.argv = [f"rlpost {stage}", *argv]
    task()
    return max(codes, default=0)


def _run(composed: Any, swept: set[str], stage: str) -> int:
    from rlpost.config.checks import check_rl
    from rlpost.config.convert import to_rl_config

    name = composed.run.name or stage
    composed.run.name = name + _member_suffix(swept)
    cfg, resolved = to_rl_config(composed)
    check_rl(cfg)

    from rlpost.stages.rl_driver import run_rl

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
