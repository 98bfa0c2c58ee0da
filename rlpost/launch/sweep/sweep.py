"""``-m``: one command, several runs.

Owns what a sweep is: its name, directory and varying options, and the record of a member before
it starts. Refuses to own which members there are (hydra's sweeper) and that they run (running.py).
Invariant: a member is a run like any other, with a name, directory and W&B run of its own.
"""

import argparse
import itertools
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Glob

from rlpost.config.quoting import quoted
from rlpost.control.result_metrics import BestMode
from rlpost.errors import UserError
from rlpost.launch.sweep.names import key_of, member_name, sweep_name, varying
from rlpost.tracking.files.sweep_record import MemberRecord

LAUNCHER = "hydra/launcher"
_MOST_CHECKED = 64  # members, before a sweep of which none can run is left to say so itself


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
        UserError: the run's name or place cannot be one, or no member could run.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    from hydra_plugins.rlpost import register
    from rlpost.bounds import check_config
    from rlpost.config.compose import checked, compose_command

    register()
    flags = [
        f"--{name}={value}"
        for name in ("config-dir", "config-name", "config-path")
        if (value := getattr(args, name.replace("-", "_"))) is not None
    ]
    searched = [each for each in args.overrides if key_of(each) == "hydra.searchpath"]
    choices = [] if _chooses(args.overrides, LAUNCHER) else [f"{LAUNCHER}=processes"]
    parsed = OverridesParser.create().parse_overrides(args.overrides)
    first = [*next(_members(args.overrides, parsed, stage=stage)), *choices]
    composed = compose_command(args, first, stage=stage, with_hydra=True)
    check_config(OmegaConf.to_object(composed.run), "run")
    keys = [each.get_key_element() for each in parsed if each.is_sweep_override()]
    searched_for = list(map(str, composed.hydra.sweeper.get("params") or ()))
    keys += [key for key in searched_for if key not in keys]
    if not searched_for and not any(each.is_interval_sweep() for each in parsed):
        _refuse_hopeless(
            _members(args.overrides, parsed, stage=stage),
            lambda member: checked(
                compose_command(args, [*member, *choices], stage=stage), stage=stage
            ),
        )
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


def _members(texts: Sequence[str], parsed: Sequence[Any], *, stage: str) -> Iterator[list[str]]:
    """Yield the overrides of each member; of an interval, where it starts."""
    from rlpost.config.explain import known_choices

    choices = []
    for text, each in zip(texts, parsed, strict=True):
        key = each.get_key_element()
        if not each.is_sweep_override():
            choices.append([text])
        elif each.is_interval_sweep():
            choices.append([f"{key}={each.value().start}"])
        elif isinstance(each.value(), Glob):
            names = each.value().filter(known_choices(each.key_or_group, stage=stage))
            choices.append([f"{key}={name}" for name in names])
        else:
            choices.append([f"{key}={value}" for value in each.sweep_string_iterator()])
    return map(list, itertools.product(*choices))


def _refuse_hopeless(members: Iterable[list[str]], check: Callable[[list[str]], object]) -> None:
    """Raise what ``check`` says of the first member, if it refuses every one."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    first: Exception | None = None
    for member in itertools.islice(members, _MOST_CHECKED):
        try:
            check(member)
        except (UserError, HydraException, OmegaConfBaseException) as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first
