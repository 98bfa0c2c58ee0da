"""``rlpost rl`` and its close relatives: compose with hydra, check, run."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from rlpost.cli.boundary import exit_code


def main(argv: list[str], *, stage: str = "rl") -> int:
    """Compose ``configs/<stage>.yaml`` with ``argv`` and run the loop; returns the exit code."""
    return exit_code(lambda: _compose_and_run(argv, stage))


def _compose_and_run(argv: list[str], stage: str) -> int:
    import hydra
    from omegaconf import DictConfig

    from rlpost.config.command_line import check_command_line
    from rlpost.config.search_path import config_dir
    from rlpost.config.store import register_configs
    from rlpost.launch.sweep.sweep import plan_sweep, run_sweep

    register_configs()
    check_command_line(argv)

    def start(task: Callable[[DictConfig], Any], argv: Sequence[str]) -> None:
        sys.argv = [f"rlpost {stage}", *argv]
        hydra.main(config_path=str(config_dir()), config_name=stage, version_base="1.3")(task)()

    def run(composed: DictConfig) -> int:
        # Caught in here: hydra would print its own words around the message.
        return exit_code(lambda: _run(composed, stage))

    sweep = plan_sweep(argv, stage=stage)
    if sweep is not None:
        return run_sweep(sweep, start, run=run)
    codes: list[int] = []

    def task(composed: DictConfig) -> None:
        codes.append(run(composed))

    start(task, argv)
    return max(codes, default=0)


def _run(composed: Any, stage: str) -> int:
    from rlpost.config.compose import checked

    cfg, resolved = checked(composed, stage=stage)

    from rlpost.stages.rl_driver import run_rl

    outcome = run_rl(cfg, resolved)
    print(outcome.message)
    return outcome.exit_code
