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

    @hydra.main(config_path=str(config_dir()), config_name="rl", version_base="1.3")
    def task(composed: DictConfig) -> None:
        # A sweep runs several members in turn; one that fails must not stop the others.
        codes.append(exit_code(lambda: _run(composed)))

    sys.argv = ["rlpost rl", *argv]
    task()
    return max(codes, default=0)


def _run(composed: Any) -> int:
    from omegaconf import OmegaConf

    from rlpost.config.checks import check_rl
    from rlpost.config.schema import RLConfig

    OmegaConf.resolve(composed)
    name = composed.run.name or "rl"
    composed.run.name = name + _member_suffix()
    cfg = OmegaConf.to_object(composed)
    assert isinstance(cfg, RLConfig)
    check_rl(cfg)
    resolved = OmegaConf.to_container(composed, enum_to_str=True)

    from rlpost.stages.rl_driver import run_rl

    assert isinstance(resolved, dict)
    outcome = run_rl(cfg, resolved)
    print(outcome.message)
    return outcome.exit_code


def _member_suffix() -> str:
    """What makes a sweep member's name unique: its overrides; empty outside a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra_config = HydraConfig.get()
    if hydra_config.mode is not RunMode.MULTIRUN:
        return ""
    overrides = [o for o in hydra_config.overrides.task if not o.startswith(("run.", "experiment"))]
    return "-" + re.sub(r"[^\w.=+,-]", "_", ",".join(overrides) or str(hydra_config.job.num))
