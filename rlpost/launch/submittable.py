"""``stage [overrides]`` typed here -> the command line of a job that means the same there.

Owns what has to change in a configuration that runs on another machine. Refuses to own the
job (job_request.py) and the options of ``rlpost submit`` (cli/submit.py). Invariant: a mistake
that can be seen from here is said before anything is uploaded.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from rlpost.config.quoting import quoted
from rlpost.errors import UserError
from rlpost.stages.registry import STAGES

_SWEEP_FLAGS = ("-m", "--multirun")


@dataclass(frozen=True, kw_only=True)
class Submittable:
    """A command line that means on the cluster what it meant here."""

    argv: tuple[str, ...]
    run_root: Path  # absolute
    run_name: str


def submittable(command: list[str]) -> Submittable:
    """Translate ``stage [overrides]`` for a job, whose working directory is a passing copy.

    The run directory becomes absolute and the driver joins the job's cluster.

    Raises:
        UserError, HydraException, OmegaConfBaseException: the command cannot work.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from rlpost.config.command_line import read_command_line
    from rlpost.config.compose import compose_command, default_name

    stage, *rest = command
    if stage not in STAGES:
        raise UserError(
            f"only {', '.join(STAGES)} can be submitted, got {stage!r}; options of submit come "
            "before the stage"
        )
    for each in rest:
        if each.startswith("-") and each not in _SWEEP_FLAGS:
            raise UserError(
                f"{each!r} after the stage is not understood: give options of submit before the "
                f"stage, and use others with `rlpost {stage}` here"
            )
    args = read_command_line(rest, stage=stage)
    parsed = OverridesParser.create().parse_overrides(args.overrides)
    plain = [o.input_line for o in parsed if not o.is_sweep_override() and o.input_line]
    composed = compose_command(args, plain, stage=stage)
    run_root = Path(os.path.abspath(Path(composed.run.dir).expanduser()))
    argv = [stage, *rest, f"run.dir={quoted(str(run_root))}"]
    if "cluster" in composed and composed.cluster.address is None:
        argv.append("cluster.address=auto")
    name = composed.run.name or default_name(composed, stage=stage)
    return Submittable(argv=tuple(argv), run_root=run_root, run_name=name)
