"""Readings of this machine: cores, memory, processor features, GPUs, packages and ports.

Owns the reading. Refuses to judge what was read (checks.py). Readers take the root directory or
the command that they read from, so that tests can describe another machine. scripts/preflight.py
reads memory by itself, because it runs before this package can be imported.
"""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rlpost.network import LOOPBACK, listen
from rlpost.verifiers.workers.isolation import Isolation

ROOT = Path("/")
GPU_FIELDS = "name,memory.total,memory.used,ecc.errors.uncorrected.volatile.total,driver_version"


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
    used_mib: int = 0
    uncorrected_errors: int = 0  # since the driver was loaded; 0 if the GPU does not count them
    driver: str = ""  # its version, such as 580.95.05


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


def gpus(command: str = "nvidia-smi") -> tuple[list[Gpu], str]:
    """Return the GPUs that the driver reports, and why there are none if it does not answer."""
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


def _gpu(line: str) -> Gpu:
    name, *numbers, driver = (field.strip() for field in line.rsplit(",", 4))
    total, used, errors = (int(n) if n.isdigit() else 0 for n in numbers)  # "[N/A]": 0
    return Gpu(name=name, memory_mib=total, used_mib=used, uncorrected_errors=errors, driver=driver)


def torch_cuda() -> str | None:
    """CUDA version that torch was built for, such as "13.0"; None: none, or torch is absent."""
    spec = importlib.util.find_spec("torch")
    places = spec.submodule_search_locations if spec is not None else None
    # The file and not the package, whose import takes seconds.
    return cuda_of_torch(_text(Path(places[0]) / "version.py")) if places else None


def cuda_of_torch(version_file: str) -> str | None:
    """Example: ``cuda_of_torch("cuda: Optional[str] = '13.0'") == "13.0"``."""
    found = re.search(r"^cuda\b[^=]*= *['\"]([\d.]+)['\"]", version_file, flags=re.MULTILINE)
    return found[1] if found else None


def compiler() -> str | None:
    """Path of a C++ compiler: ``$CXX``, c++, g++ or clang++."""
    named = os.environ.get("CXX", "").split()[:1]
    return next(filter(None, map(shutil.which, [*named, "c++", "g++", "clang++"])), None)


def installed() -> dict[str, str]:
    """Return normalised name -> version of every distribution that an import would find.

    The first one on the path counts, because setuptools, once imported, adds its own old copies
    of packaging and others after the installed ones.
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
    """Name -> version of a lock file; empty if there is none (a wheel has none)."""
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
    """Find out in a separate process which isolation a verifier worker gets here."""
    command = [sys.executable, "-P", "-m", "rlpost.verifiers.workers.isolation"]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    return Isolation(**json.loads(run.stdout))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
