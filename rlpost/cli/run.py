"""``rlpost <stage> [overrides]``: compose with hydra, check, run; the same door for every stage."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from rlpost.cli import stage_help
from rlpost.cli.exit_code import exit_code
from rlpost.stages.registry import STAGES, Stage


def main(argv: list[str], *, stage: str) -> int:
    """Compose ``configs/<stage>.yaml`` with ``argv`` and run the stage; returns the exit code."""
    if any(word in stage_help.HELP for word in argv):
        return exit_code(lambda: stage_help.main(argv, STAGES[stage]), stage=stage)
    return exit_code(lambda: _compose_and_run(argv, STAGES[stage]), stage=stage)


def _compose_and_run(argv: list[str], stage: Stage) -> int:
    import hydra
    from omegaconf import DictConfig

    from rlpost.config.command_line import read_command_line
    from rlpost.config.compose import checked, compose_command
    from rlpost.config.recipes import with_plus
    from rlpost.config.search_path import config_dir
    from rlpost.launch.sweep.running import run_sweep
    from rlpost.launch.sweep.sweep import plan_sweep

    args = read_command_line(argv, stage=stage.name)

    def start(task: Callable[[DictConfig], Any], argv: Sequence[str]) -> None:
        sys.argv = [f"rlpost {stage.name}", *map(with_plus, argv)]
        hydra.main(config_path=str(config_dir()), config_name=stage.name, version_base="1.3")(
            task
        )()

    def run(composed: DictConfig) -> int:
        # Caught in here: hydra would print its own words around the message.
        return exit_code(lambda: _run(composed, stage), stage=stage.name)

    if args.multirun:
        return run_sweep(plan_sweep(args, stage=stage.name), start, run=run)
    codes: list[int] = []

    def task(composed: DictConfig) -> None:
        codes.append(run(composed))

    start(task, argv)
    if args.cfg is not None:  # hydra printed it and never called the task
        checked(compose_command(args, args.overrides, stage=stage.name), stage=stage.name)
    return max(codes, default=0)


def _run(composed: Any, stage: Stage) -> int:
    from rlpost.config.compose import checked

    cfg, resolved = checked(composed, stage=stage.name)

    outcome = stage.part("drive")(stage, cfg, resolved)
    print(outcome.message)
    return outcome.exit_code
