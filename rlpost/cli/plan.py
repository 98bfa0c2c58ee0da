"""``rlpost plan``: where each process would run, what it needs and how long a step takes.

Owns the command. Refuses to own the machines that it plans for (plan_machines.py), what it shows
(plan_memory.py, plan_times.py), the arithmetic (a stage's ``estimate`` and ``timing``) and the
slots (control/placement.py). Starts no process and writes nothing; with ``cluster.address`` it
joins that cluster for as long as it looks at it. Exit code 2: it would not fit.
"""

import argparse
from dataclasses import dataclass, fields
from typing import Any

from rlpost.bounds import check_config, help_of, number
from rlpost.cli.exit_code import exit_code
from rlpost.cli.plan_machines import Hardware, found, imagined
from rlpost.cli.plan_memory import report
from rlpost.cli.plan_times import step_times
from rlpost.errors import UserError
from rlpost.stages.registry import STAGES


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a run is expected to do; the field has the name of the flag."""

    mean_response: float | None = number(
        None, above=0, at_most=1e7, help="tokens of a response, on average"
    )


def main(argv: list[str]) -> int:
    """Print placement, memory and time of a run; returns the exit code."""
    args = _parser().parse_args(argv)
    described = {field.name: getattr(args, field.name) for field in fields(Hardware)}
    told = {name: value for name, value in described.items() if value is not None}
    hardware = Hardware(**told) if told else None
    expected = Expected(mean_response=args.mean_response)
    return exit_code(
        lambda: _plan(args.stage, args.overrides, hardware, expected), stage=args.stage
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlpost plan",
        description="Print where each process would run, how much memory it would need and how "
        "long a step would take, without starting anything. Looks at this machine, or at the "
        "cluster of cluster.address; --nodes, --gpus and the like describe machines that are not "
        "there yet.",
        epilog="example: rlpost plan --nodes 2 --gpus 8 rl experiment=grpo cluster=two_nodes "
        "trainer.num_ranks=8 generator.num=8",
    )
    for field in (*fields(Hardware), *fields(Expected)):
        flag = f"--{field.name.replace('_', '-')}"
        default = "" if field.default is None else f" ({field.default})"
        kind = float if field.default is None else type(field.default)
        metavar = "NAME" if kind is str else "N"
        parser.add_argument(flag, type=kind, metavar=metavar, help=help_of(field) + default)
    stages = [name for name, stage in STAGES.items() if stage.estimate or stage.outline]
    parser.add_argument("stage", choices=stages)
    parser.add_argument("overrides", nargs="*", help="as for the stage itself")
    return parser


def _plan(stage: str, overrides: list[str], hardware: Hardware | None, expected: Expected) -> int:
    if hardware is not None:
        check_config(hardware)
    check_config(expected)
    if expected.mean_response is not None and STAGES[stage].timing is None:
        raise UserError(f"--mean-response has no effect on rlpost plan {stage}; leave it out")
    if STAGES[stage].outline is not None:
        return _outline(stage, overrides, hardware)
    return _shown(stage, prepared(stage, overrides, hardware), hardware, expected)


def _outline(stage: str, overrides: list[str], hardware: Hardware | None) -> int:
    """Print what a stage says that starts others."""
    from rlpost.config.compose import compose_stage

    if hardware is not None:
        raise UserError(
            f"--nodes, --gpus and the like have no effect on rlpost plan {stage}; give them to the "
            "plan of one of its stages"
        )
    cfg, _ = compose_stage(overrides, stage=stage)
    print(STAGES[stage].part("outline")(cfg))
    return 0


def prepared(stage: str, overrides: list[str], hardware: Hardware | None = None) -> Any:
    """Compose and check the configuration as the stage would, for the hardware that is meant."""
    from rlpost.cluster.session import Device
    from rlpost.config.compose import compose_stage
    from rlpost.stages.device import on_its_device
    from rlpost.stages.resume_point import resume_point_of
    from rlpost.stages.run_directory import RunDirectory
    from rlpost.tracking.open import check_trackers

    cfg, resolved = compose_stage(overrides, stage=stage)
    resume_point_of(cfg, resolved, stage=stage)
    check_trackers(cfg.tracking)
    device = None
    if hardware is not None:
        device = Device.cuda if hardware.gpus else Device.cpu
    cfg, device = on_its_device(cfg, device)
    directory = RunDirectory.of(cfg.run)
    return STAGES[stage].part("plan")(cfg, directory=directory, device=device)


def _shown(stage: str, plan: Any, hardware: Hardware | None, expected: Expected) -> int:
    """Print slots, memory and times of a checked plan; returns the exit code."""
    from rlpost.control.placement import assign_slots
    from rlpost.doctor import machine
    from rlpost.stages.roles import actors_of
    from rlpost.stages.sampling.push_plan import with_pushes
    from rlpost.stages.step_time import PlannedOn

    machines = imagined(hardware) if hardware else found(plan)
    slots = assign_slots(
        actors_of(plan.roles), machines.nodes, placement=plan.cfg.cluster.placement
    )
    estimate = STAGES[stage].part("estimate")(plan, gpu_bytes=machines.gpu_bytes)
    if hasattr(plan.cfg, "weights"):
        estimate = with_pushes(estimate, plan, slots)
    times = step_times(
        STAGES[stage],
        plan,
        PlannedOn(
            slots=slots,
            gpu=machines.gpu,
            cores=machines.cores,
            features=machine.cpu_features(),
        ),
        gpu_name=machines.gpu_name,
        mean_response=expected.mean_response,
    )
    notes = _notes(plan, slots, estimate, here=hardware is None)
    code = report(estimate, slots, machines, notes=notes, lacking=times.lacking)
    times.show()
    return code


def _notes(plan: Any, slots: list[Any], estimate: Any, *, here: bool) -> list[str]:
    """Return the sentences below the tables; ``here``: this machine, or a cluster, is looked at."""
    from rlpost.cluster.store_size import size_here
    from rlpost.stages.sampling.push_plan import precision_notes, push_notes

    notes = [note for role in plan.roles for note in role.notes]
    if hasattr(plan.cfg, "weights"):
        notes += push_notes(plan.cfg.weights, slots) + precision_notes(plan.cfg)
    if here and plan.cfg.cluster.address is None:
        # This machine's shared memory may have no room for a step's batch.
        complaint = size_here(estimate.step_bytes).complaint
        notes += [] if complaint is None else [f"{complaint}."]
    return notes
