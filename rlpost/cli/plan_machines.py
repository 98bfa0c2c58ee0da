"""Which machines ``rlpost plan`` plans for: those that flags describe, this one, or a cluster.

Owns the flags and what is known of each machine. Refuses to own which actor sits where
(control/placement.py). Joins a cluster for as long as it looks at it; starts nothing.
"""

from dataclasses import dataclass, replace
from typing import Any

from rlpost.bounds import number, option
from rlpost.errors import UserError
from rlpost.roofline.devices import BY_NAME, DeviceSpec, device_named

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
        """Raises UserError: a device that is not in the table, or GPUs without a number."""
        if self.device not in BY_NAME:
            raise UserError(f"--device must be one of {', '.join(BY_NAME)}, got {self.device!r}")
        if not self.gpus and (self.device != "h100" or self.gpu_gib is not None):
            raise UserError("--device and --gpu-gib describe GPUs: give their number, --gpus, too")


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What is planned for, whether it exists or not."""

    nodes: list[Any]  # control.placement.Node
    node_bytes: dict[str, float]  # node id -> memory that is available there
    gpu_bytes: float | None  # None: on CPU
    gpu: DeviceSpec | None  # None: on CPU, or not in the table
    gpu_name: str  # by the driver, or as described; empty: on CPU
    cores: float  # of one node


def imagined(hardware: Hardware) -> Machines:
    """Return machines that need not exist."""
    from rlpost.control.placement import Node

    names = [f"node {number}" for number in range(1, hardware.nodes + 1)]
    return Machines(
        nodes=[Node(id=name, name=name, cpus=hardware.cores, gpus=hardware.gpus) for name in names],
        node_bytes=dict.fromkeys(names, hardware.node_gib * GIB),
        gpu_bytes=hardware.gpu.memory_bytes if hardware.gpu else None,
        gpu=hardware.gpu,
        gpu_name=hardware.device if hardware.gpus else "",
        cores=hardware.cores,
    )


def found(plan: Any) -> Machines:
    """Look at the cluster to be joined, or at this machine."""
    import socket

    from rlpost.cluster.reservations import ask_nodes, living_nodes
    from rlpost.cluster.session import Device, Session
    from rlpost.control.placement import Node
    from rlpost.doctor import machine

    if plan.cfg.cluster.address is not None:
        with Session(plan.cfg.cluster):
            nodes = living_nodes()
            looked = ask_nodes(nodes, machine_sizes, timeout_s=plan.cfg.cluster.place_timeout_s)
    else:
        here = socket.gethostname()
        nodes = [Node(id=here, name=here, cpus=machine.cores(), gpus=len(machine.gpus()[0]))]
        looked = {here: machine_sizes()}
    gpus = [size for sizes in looked.values() for size in sizes.gpu_bytes]
    names = sorted({name for sizes in looked.values() for name in sizes.gpu_names})
    on_gpu = bool(gpus) and plan.device is Device.cuda
    known = device_named(names[0]) if on_gpu else None
    return Machines(
        nodes=nodes,
        node_bytes={node: sizes.host_bytes for node, sizes in looked.items()},
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
