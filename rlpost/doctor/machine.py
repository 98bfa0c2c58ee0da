"""What this machine is, read from the system and nowhere else.

Owns readings of cores, memory, disk, processor features, GPUs, packages and ports. Refuses
to judge them (checks.py). Every reader takes the root or command it reads from, so that a
test can show it another machine. scripts/preflight.py reads memory for itself, because it
runs before this package can be imported.
"""

import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rlpost.network import LOOPBACK, listen
from rlpost.verifiers.isolation import Isolation

ROOT = Path("/")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory this process may use; the container's limit when there is one."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One line of nvidia-smi. Example: ``Gpu(name="NVIDIA H100", memory_mib=81559)``."""

    name: str
    memory_mib: int


def cores(root: Path = ROOT) -> float:
    """Cores this process may use: its affinity, or the container's quota if smaller."""
    usable = float(len(os.sched_getaffinity(0)))
    quota = _text(root / "sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        usable = min(usable, int(quota[0]) / int(quota[1]))
    return usable


def memory(root: Path = ROOT) -> Memory:
    """Total and available memory from ``/proc/meminfo`` and the cgroup."""
    fields = dict(
        line.split(":", 1) for line in _text(root / "proc/meminfo").splitlines() if ":" in line
    )
    total, available = (
        int(fields.get(name, "0").split()[0]) * 1024 for name in ("MemTotal", "MemAvailable")
    )
    limit = _text(root / "sys/fs/cgroup/memory.max").strip()
    if limit.isdigit() and int(limit) < total:
        used = _text(root / "sys/fs/cgroup/memory.current").strip()
        left = int(limit) - (int(used) if used.isdigit() else 0)
        total, available = int(limit), min(available, left)
    return Memory(total_bytes=total, available_bytes=available)


def cpu_features(root: Path = ROOT) -> frozenset[str]:
    """Instruction sets the first processor names in ``/proc/cpuinfo``."""
    for line in _text(root / "proc/cpuinfo").splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def gpus(command: str = "nvidia-smi") -> tuple[Gpu, ...]:
    """GPUs that the driver reports; none when there is no driver or it does not answer."""
    if shutil.which(command) is None:
        return ()
    query = [command, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = (line.rsplit(",", 1) for line in result.stdout.splitlines() if "," in line)
    return tuple(Gpu(name=name.strip(), memory_mib=int(size)) for name, size in rows)


def compiler() -> str | None:
    """Path of a C++ compiler: ``$CXX``, c++, g++ or clang++."""
    named = os.environ.get("CXX", "").split()[:1]
    return next(filter(None, map(shutil.which, [*named, "c++", "g++", "clang++"])), None)


def installed() -> dict[str, str]:
    """Normalised name -> version of every distribution that an import would find.

    The first on the path counts: setuptools, once imported, puts its own old copies of
    packaging and others behind the installed ones.
    """
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        if distribution.name:  # a half-removed package has no name
            found.setdefault(normalized(distribution.name), distribution.version)
    return found


def normalized(name: str) -> str:
    """Example: ``normalized("Types_PyYAML") == "types-pyyaml"``."""
    return name.lower().replace("_", "-").replace(".", "-")


def lock_pins(lock: Path) -> dict[str, str]:
    """Name -> version of a lock file; empty when there is none (a wheel carries none)."""
    lines = (line.split("#")[0].strip() for line in _text(lock).splitlines())
    return dict(line.split("==", 1) for line in lines if line)


def can_connect_to_itself() -> str | None:
    """Listen on a port of loopback, connect to it; return the error or None."""
    try:
        with (
            listen(LOOPBACK) as server,
            socket.create_connection(server.getsockname(), timeout=5),
        ):
            return None
    except OSError as error:
        return str(error)


def worker_isolation() -> Isolation:
    """Ask a process of its own what a verifier worker gets here."""
    command = [sys.executable, "-P", "-m", "rlpost.verifiers.isolation"]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    return Isolation(**json.loads(run.stdout))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
