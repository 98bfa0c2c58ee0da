"""``rlpost plan``: where each process would run, what it needs and how long a step takes.

Owns the command and its tables. Refuses to own the arithmetic (a stage's ``estimate`` and
``timing``) and the slots (control/placement.py). Starts no process and writes nothing; with
``cluster.address`` it joins that cluster for as long as it looks at it. Exit code 2: it would not
fit.
"""

import argparse
import re
from dataclasses import dataclass, fields, replace
from typing import Any

from rlpost.bounds import check_config, help_of, number, option
from rlpost.cli.exit_code import exit_code
from rlpost.cli.plan_times import step_times
from rlpost.errors import UserError
from rlpost.models.footprint import together_bytes
from rlpost.roofline.devices import BY_NAME, DeviceSpec, device_named
from rlpost.stages.registry import STAGES

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Machines that need not exist, all alike; the fields have the names of the flags."""

    nodes: int = number(1, at_least=1, at_most=10**4, help="so many nodes that need not exist")
    cores: int = number(64, at_least=1, at_most=10**4, help="of such a node")
    node_gib: float = number(512.0, above=0, at_most=1e6, help="memory of such a node")
    gpus: int = number(0, at_least=0, at_most=1000, help="of such a node")
    device: str = option("h100", help="which GPUs these are")
    gpu_gib: float | None = number(
        None, above=0, at_most=1e4, help="memory of such a GPU, if not the usual one"
    )

    @property
    def gpu(self) -> DeviceSpec | None:
        """What each of the GPUs is; None: there are none."""
        if not self.gpus:
            return None
        usual = BY_NAME[self.device]
        return usual if self.gpu_gib is None else replace(usual, memory_bytes=self.gpu_gib * GIB)

    def check(self, path: str) -> None:
        """Raises UserError: a device that is not in the table."""
        if self.device not in BY_NAME:
            raise UserError(f"--device must be one of {', '.join(BY_NAME)}, got {self.device!r}")


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a run is expected to do; the field has the name of the flag."""

    mean_response: float | None = number(
        None, above=0, at_most=1e7, help="tokens of a response, on average"
    )


def main(argv: list[str]) -> int:
    """Print placement, memory and time of a run; returns the exit code."""
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
    args = parser.parse_args(argv)
    described = {field.name: getattr(args, field.name) for field in fields(Hardware)}
    told = {name: value for name, value in described.items() if value is not None}
    hardware = Hardware(**told) if told else None
    expected = Expected(mean_response=args.mean_response)
    return exit_code(
        lambda: _plan(args.stage, args.overrides, hardware, expected), stage=args.stage
    )


@dataclass(frozen=True, kw_only=True)
class _Machines:
    """What is planned for."""

    nodes: list[Any]  # control.placement.Node
    node_bytes: dict[str, float]  # node id -> memory that is available there
    gpu_bytes: float | None  # None: on CPU
    gpu: DeviceSpec | None  # None: on CPU, or not in the table
    gpu_name: str  # of the driver, where it is not in the table
    cores: float  # of one node


def _plan(stage: str, overrides: list[str], hardware: Hardware | None, expected: Expected) -> int:
    from rlpost.control.placement import assign_slots
    from rlpost.doctor import machine
    from rlpost.stages.roles import actors_of
    from rlpost.stages.sampling.push_plan import precision_notes, push_notes
    from rlpost.stages.step_time import PlannedOn

    if hardware is not None:
        check_config(hardware)
    check_config(expected)
    if expected.mean_response is not None and STAGES[stage].timing is None:
        raise UserError(f"--mean-response has no effect on rlpost plan {stage}; leave it out")
    if STAGES[stage].outline is not None:
        return _outline(stage, overrides, hardware)
    plan = prepared(stage, overrides, hardware)
    machines = _imagined(hardware) if hardware else _found(plan)
    slots = assign_slots(
        actors_of(plan.roles), machines.nodes, placement=plan.cfg.cluster.placement
    )
    estimate = STAGES[stage].part("estimate")(plan, gpu_bytes=machines.gpu_bytes)
    notes = [note for role in plan.roles for note in role.notes]
    if hasattr(plan.cfg, "weights"):
        notes += push_notes(plan.cfg.weights, slots) + precision_notes(plan.cfg)
    if hardware is None and plan.cfg.cluster.address is None:
        notes += _store_notes(estimate.step_bytes)
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
    code = _report(estimate, slots, machines, notes=notes, lacking=times.lacking)
    times.show()
    return code


def _store_notes(step_bytes: int) -> list[str]:
    """Say if this machine's shared memory has no room for a step's batch."""
    from rlpost.cluster.store_size import size_here

    complaint = size_here(step_bytes).complaint
    return [] if complaint is None else [f"{complaint}."]


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


def _imagined(hardware: Hardware) -> _Machines:
    from rlpost.control.placement import Node

    names = [f"node {number}" for number in range(1, hardware.nodes + 1)]
    return _Machines(
        nodes=[Node(id=name, name=name, cpus=hardware.cores, gpus=hardware.gpus) for name in names],
        node_bytes=dict.fromkeys(names, hardware.node_gib * GIB),
        gpu_bytes=hardware.gpu.memory_bytes if hardware.gpu else None,
        gpu=hardware.gpu,
        gpu_name=hardware.device,
        cores=hardware.cores,
    )


def _found(plan: Any) -> _Machines:
    """Look at the cluster to be joined, or at this machine."""
    import socket

    from rlpost.cluster.reservations import ask_nodes, living_nodes
    from rlpost.cluster.session import Device, Session
    from rlpost.control.placement import Node
    from rlpost.doctor import machine

    if plan.cfg.cluster.address is not None:
        with Session(plan.cfg.cluster):
            nodes = living_nodes()
            found = ask_nodes(nodes, machine_sizes, timeout_s=plan.cfg.cluster.place_timeout_s)
    else:
        here = socket.gethostname()
        nodes = [Node(id=here, name=here, cpus=machine.cores(), gpus=len(machine.gpus()[0]))]
        found = {here: machine_sizes()}
    gpus = [size for sizes in found.values() for size in sizes.gpu_bytes]
    names = sorted({name for sizes in found.values() for name in sizes.gpu_names})
    on_gpu = bool(gpus) and plan.device is Device.cuda
    known = device_named(names[0]) if on_gpu else None
    return _Machines(
        nodes=nodes,
        node_bytes={node: sizes.host_bytes for node, sizes in found.items()},
        gpu_bytes=min(gpus) if on_gpu else None,
        gpu=replace(known, memory_bytes=min(gpus)) if known else None,
        gpu_name=names[0] if on_gpu else "",
        cores=min(node.cpus for node in nodes),
    )


@dataclass(frozen=True, kw_only=True)
class MachineSizes:
    """Memory of one machine."""

    host_bytes: float
    gpu_bytes: list[float]
    gpu_names: list[str]


def machine_sizes() -> MachineSizes:
    """Look at the machine that this is called on."""
    from rlpost.doctor import machine

    gpus = machine.gpus()[0]
    return MachineSizes(
        host_bytes=machine.memory().total_bytes,
        gpu_bytes=[gpu.memory_mib * 2.0**20 for gpu in gpus],
        gpu_names=[gpu.name for gpu in gpus],
    )


def _report(
    found: Any, slots: list[Any], machines: _Machines, *, notes: list[str], lacking: list[str]
) -> int:
    """Print slots and memory; return 2 when something would not fit, else 0.

    Args:
        found: the stage's estimate.
        slots: of the actors.
        machines: that are planned for.
        notes: sentences below the tables.
        lacking: what would not fit for other reasons.
    """
    from rich.console import Console

    console = Console(highlight=False)
    table = _table("memory, at the peak of each process", "node", "process", "GiB", "of which")
    full = []
    for index, node in enumerate(machines.nodes):
        here = [each for each in slots if each.bundle.node.id == node.id]
        rows = [f for each in here for f in found.of(each.actor.name)]
        rows += found.unplaced if index == 0 else []
        for name, row in _alike(rows):
            where = f"{node.name}, GPU" if row.on_gpu else node.name
            parts = ", ".join(f"{what} {size / GIB:.2f}" for what, size in row.largest())
            table.add_row(where, name, f"{row.peak_bytes / GIB:.2f}", parts)
        host = together_bytes([row for row in rows if not row.on_gpu])
        room = machines.node_bytes[node.id]
        table.add_row(node.name, "all, on the host", f"{host / GIB:.2f}", f"of {room / GIB:.1f}")
        table.add_section()
        if host > room:
            full.append(f"{node.name}: {host / GIB:.1f} of {room / GIB:.1f} GiB")
        full += _full_gpus(found, here, machines.gpu_bytes)
    console.print(_slots_table(slots), table)
    for sentence in (*found.sentences, *notes):
        console.print(sentence)
    if full:
        console.print(f"It would not fit: {'; '.join(full)}; {found.way_out}.")
    for refusal in lacking:
        console.print(f"It would not fit: {refusal}.")
    return 2 if full or lacking else 0


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(title=title)
    for each in columns:
        table.add_column(each, justify="right" if each in ("GiB", "s") else "left", overflow="fold")
    return table


def _alike(footprints: list[Any]) -> list[tuple[str, Any]]:
    """Return each kind of process once. Example: ``("trainer rank 0, 4 alike", footprint)``."""
    kinds: dict[Any, list[Any]] = {}
    for each in footprints:
        kind = re.sub(r"\d+", "#", each.process), each.on_gpu, each.peak_bytes
        kinds.setdefault(kind, []).append(each)
    return [
        (same[0].process + (f", {len(same)} alike" if len(same) > 1 else ""), same[0])
        for same in kinds.values()
    ]


def _full_gpus(found: Any, slots: list[Any], gpu_bytes: float | None) -> list[str]:
    """Name the GPUs that would have to hold more than they can."""
    if gpu_bytes is None:
        return []
    on_bundle: dict[Any, list[Any]] = {}
    for each in slots:
        on_bundle.setdefault(each.bundle, []).append(each.actor.name)
    full = []
    for names in on_bundle.values():
        # Of an actor with several GPUs every GPU holds the same.
        parts = [[f for f in found.of(name) if f.on_gpu] for name in names]
        size_bytes = together_bytes([max(own, key=lambda f: f.peak_bytes) for own in parts])
        if size_bytes > gpu_bytes:
            size = f"{size_bytes / GIB:.1f} of {gpu_bytes / GIB:.1f} GiB"
            full.append(f"GPU of {' and '.join(names)}: {size}")
    return full


def _slots_table(slots: list[Any]) -> Any:
    from rlpost.control.placement import picture

    table = _table("slots", "node", "actors")
    for line in picture(slots):
        node, _, actors = line.partition(": ")
        table.add_row(node, actors)
    return table
