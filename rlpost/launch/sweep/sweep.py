"""``-m``: one command, several runs.

Owns what a sweep is: its name, directory and varying options, and the record of a member before
it starts. Refuses to own which members there are (members.py, hydra's sweeper) and that they run
(running.py). Invariant: a member is a run like any other, with a name, directory and W&B run of its
own.
"""

import argparse
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpost.config.quoting import quoted
from rlpost.control.result_metrics import BestMode
from rlpost.errors import UserError
from rlpost.launch.sweep.members import members_of, refuse_hopeless_search, refuse_wrong_members
from rlpost.launch.sweep.names import key_of, member_name, sweep_name, varying
from rlpost.tracking.files.sweep_record import MemberRecord

LAUNCHER = "hydra/launcher"
_GRID = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"  # every combination of values


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One sweep as its command line describes it."""

    stage: str
    name: str
    directory: Path
    keys: tuple[str, ...]  # options that vary
    found_by: tuple[str, ...]  # where hydra looks for YAML besides the package
    argv: tuple[str, ...]  # the command line, with the choices that were left open
    token: str  # of this command
    metric: str | None = None  # what ranks the members; None: the held-out result, else training's
    lowest_first: bool | None = None  # None: as the metric's name tells

    def member(self, composed: Any, overrides: list[str], *, number: int) -> MemberRecord:
        """Return the record of the member that ``composed`` configures."""
        name = member_name(composed.run.name or self.stage, overrides, keys=self.keys)
        return MemberRecord(
            name=name,
            number=number,
            run_dir=str(Path(composed.run.dir).expanduser() / name),
            overrides=tuple(varying(overrides, keys=self.keys)),
            token=self.token,
        )


def plan_sweep(args: argparse.Namespace, *, stage: str) -> Sweep:
    """Return the sweep that a command line with ``-m``, read by ``read_command_line``, asks for.

    Raises:
        HydraException, OmegaConfBaseException: the options cannot be composed.
        UserError: the run's name or place cannot be one, or a member cannot run.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    from hydra_plugins.rlpost import register
    from rlpost.bounds import check_config
    from rlpost.config.compose import compose_command

    register()
    flags = [
        f"--{name}={value}"
        for name in ("config-dir", "config-name", "config-path")
        if (value := getattr(args, name.replace("-", "_"))) is not None
    ]
    searched = [each for each in args.overrides if key_of(each) == "hydra.searchpath"]
    choices = [] if _chooses(args.overrides, LAUNCHER) else [f"{LAUNCHER}=processes"]
    parsed = OverridesParser.create().parse_overrides(args.overrides)
    first = next(members_of(args.overrides, parsed, stage=stage))
    composed = compose_command(args, [*first, *choices], stage=stage, with_hydra=True)
    check_config(OmegaConf.to_object(composed.run), "run")
    keys = _keys_of_checked_members(args, composed, choices=choices, stage=stage)
    name = sweep_name(composed.run.name or stage, keys=keys)
    directory = Path(composed.run.dir).expanduser() / name
    place_override = f"hydra.sweep.dir={quoted(str(directory))}"
    metric, lowest_first = _ranking(composed)
    return Sweep(
        stage=stage,
        name=name,
        directory=directory,
        keys=tuple(keys),
        found_by=(*flags, *searched),
        argv=("-m", *flags, *args.overrides, *choices, place_override),
        token=secrets.token_hex(4),
        metric=metric,
        lowest_first=lowest_first,
    )


def _keys_of_checked_members(
    args: argparse.Namespace, composed: Any, *, choices: Sequence[str], stage: str
) -> list[str]:
    """Return which options vary, after every member that is known by now was checked.

    Raises:
        UserError: a member cannot run; of a search, none of the examples can.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from rlpost.config.compose import checked, compose_command

    params = composed.hydra.sweeper.get("params") or {}
    texts = [*(f"{key}={value}" for key, value in params.items()), *args.overrides]
    parsed = OverridesParser.create().parse_overrides(texts)
    swept = {each.get_key_element(): each.is_sweep_override() for each in parsed}
    keys = [key for key, several in swept.items() if several]
    members = members_of(texts, parsed, stage=stage)

    def check(member: list[str]) -> None:
        checked(compose_command(args, [*member, *choices], stage=stage), stage=stage)

    if composed.hydra.sweeper._target_ == _GRID:
        _refuse_intervals(parsed)
        _check_batch(composed.hydra.sweeper.get("max_batch_size"))
        refuse_wrong_members(list(members), check, keys=keys, stage=stage)
    else:
        refuse_hopeless_search(members, check, stage=stage)
    return keys


def _ranking(composed: Any) -> tuple[str | None, bool | None]:
    """Return what ranks the members: the search's metric, or else that of the best checkpoint."""
    if (metric := composed.hydra.sweeper.get("metric")) is not None:
        goal = composed.hydra.sweeper.get("goal")
        return metric, None if goal is None else str(goal).endswith("minimize")
    checkpoint = composed.get("checkpoint", {})
    mode = checkpoint.get("best_mode")
    return checkpoint.get("best_metric"), None if mode is None else mode is BestMode.min


def _chooses(overrides: Sequence[str], group: str) -> bool:
    return any(key_of(each) == group for each in overrides)


def _check_batch(size: object) -> None:
    """Raise UserError: hydra's sweeper would end with an assertion."""
    if size is not None and not (isinstance(size, int) and size >= 1):
        raise UserError(
            f"hydra.sweeper.max_batch_size must be at least 1, got {size}; null runs all members "
            "as one batch"
        )


def _refuse_intervals(parsed: Sequence[Any]) -> None:
    """Raise UserError for an option whose values only a search can choose."""
    for each in parsed:
        if each.is_interval_sweep():
            raise UserError(
                f"{each.input_line}: only a search chooses values of an interval; add "
                f"sweep=optuna, or list the values, as in {each.get_key_element()}=A,B"
            )
