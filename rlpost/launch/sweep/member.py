"""One member of a sweep by its number, for schedulers that start members themselves.

Owns the expansion. Refuses to own the names (sweep/names.py). Invariants: the members and their
order are those of ``rlpost <stage> -m``; each has a run name of its own.
"""

from collections.abc import Sequence

from rlpost.config.quoting import quoted
from rlpost.errors import UserError
from rlpost.launch.sweep.names import member_name, sweep_name


def member_command(argv: Sequence[str], index: int) -> list[str]:
    """Return the command line of member ``index`` of the sweep ``[stage, *overrides]``.

    Raises:
        UserError: no option varies, or the sweep has fewer members.
        HydraException, OmegaConfBaseException: the options cannot be composed.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from rlpost.config.command_line import read_command_line
    from rlpost.config.compose import compose_command

    stage, *overrides = argv
    args = read_command_line(overrides, stage=stage)
    parsed = OverridesParser.create().parse_overrides(args.overrides)
    keys = [each.get_key_element() for each in parsed if each.is_sweep_override()]
    if not keys:
        raise UserError("a sweep needs an option with several values, such as seed=1,2,3")
    (members,) = BasicSweeper.split_arguments(parsed, None)
    if not 0 <= index < len(members):
        raise UserError(
            f"the sweep over {', '.join(keys)} has {len(members)} members and none with number "
            f"{index}; submit with --array=0-{len(members) - 1}"
        )
    composed = compose_command(args, members[index], stage=stage)
    base = composed.run.name or stage
    return [
        stage,
        *members[index],
        f"run.name={quoted(member_name(base, members[index], keys=keys))}",
        f"tracking.group={quoted(sweep_name(base, keys=keys))}",
    ]
