"""A command line -> the checked configuration, without hydra's own main function.

Owns the order: words, composition, conversion, rules. Invariant: nothing is written.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlpost.config.command_line import read_command_line
from rlpost.config.convert import to_config
from rlpost.config.quoting import quoted
from rlpost.config.recipes import with_plus
from rlpost.config.search_path import config_dir
from rlpost.stages.registry import STAGES


def compose_stage(argv: Sequence[str], *, stage: str) -> tuple[Any, dict[str, Any]]:
    """Return what ``rlpost <stage> <argv>`` would run, as objects and as plain data.

    Raises:
        UserError, HydraException, OmegaConfBaseException: the configuration cannot work.
    """
    args = read_command_line(argv, stage=stage)
    return checked(compose_command(args, args.overrides, stage=stage), stage=stage)


def compose_command(
    args: argparse.Namespace, overrides: Sequence[str], *, stage: str, with_hydra: bool = False
) -> DictConfig:
    """Return what hydra composes of ``overrides`` with the flags of ``args``.

    Raises:
        HydraException, OmegaConfBaseException: it cannot be composed.
    """
    from hydra import compose, initialize_config_dir

    searched = []
    if args.config_dir is not None:
        beside = quoted(f"file://{Path(args.config_dir).resolve()}")
        searched.append(f"hydra.searchpath=[{beside}]")
    place = Path(args.config_path or config_dir()).resolve()
    with _alone(), initialize_config_dir(str(place), version_base="1.3"):
        return compose(
            args.config_name or stage,
            [*map(with_plus, overrides), *searched],
            return_hydra_config=with_hydra,
        )


@contextmanager
def _alone() -> Iterator[None]:
    """Put aside the composition of a command that composes others: hydra knows one at a time."""
    from hydra.core.global_hydra import GlobalHydra

    known = GlobalHydra.instance()
    before, known.hydra = known.hydra, None
    try:
        yield
    finally:
        known.hydra = before


def checked(composed: DictConfig, *, stage: str) -> tuple[Any, dict[str, Any]]:
    """Convert a composed configuration to the stage's dataclass, and check it.

    A run without a name gets one; see ``default_name``.

    Raises:
        UserError, OmegaConfBaseException: the configuration cannot work.
    """
    run = OmegaConf.select(composed, "run")
    if run is not None and run.name is None:
        run.name = default_name(composed, stage=stage)
    cfg, resolved = to_config(composed, stage=stage)
    STAGES[stage].part("check")(cfg)
    return cfg, resolved


def default_name(composed: DictConfig, *, stage: str) -> str:
    """Return the name of a run that is given none: that of its stage, or what the stage says."""
    if STAGES[stage].run_name is None:
        return stage
    name: str = STAGES[stage].part("run_name")(composed)
    return name
