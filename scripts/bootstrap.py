"""Bring .venv to the state of requirements/cpu.lock; do nothing when it is there already.

Owns the local environment: creation, repair, installation, and the stamp that says it is
ready. Uses the standard library only. Invariant: ``.venv/.rlpost-ready`` exists only while
every pin of the lock is installed; a set-up killed anywhere is rebuilt by running again.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "cpu.lock"
PIP = "pip==26.3"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
STAMP = ".rlpost-ready"
STARTED = ".rlpost-installing"


class SetupError(Exception):
    """Set-up cannot go on; the message says what to do."""


def say(text: str) -> None:
    print(f"rlpost set-up: {text}", flush=True)


def pins(lock: Path) -> dict[str, str]:
    """Name -> version of every line of a lock file."""
    lines = (line.split("#")[0].strip() for line in lock.read_text().splitlines())
    return dict(line.split("==", 1) for line in lines if line)


def fingerprint(root: Path) -> str:
    """Hash of everything whose change calls for another installation."""
    digest = hashlib.sha256(sys.base_prefix.encode())
    for name in ("requirements/cpu.lock", "pyproject.toml", "setup.py", "scripts/bootstrap.py"):
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def is_ready(environment: Path, wanted: str) -> bool:
    """Whether a finished set-up left ``environment`` in the ``wanted`` state."""
    stamp = environment / STAMP
    return stamp.is_file() and stamp.read_text().strip() == wanted and runs(environment)


def runs(environment: Path) -> bool:
    """Whether the environment's interpreter starts and is Python 3.11."""
    code = "import sys, pip; sys.exit(sys.version_info[:2] != (3, 11))"
    try:
        return subprocess.call([python(environment), "-c", code], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def python(environment: Path) -> str:
    return str(environment / "bin" / "python")


def pip(environment: Path, *arguments: str, probing: bool = False) -> bool:
    """Run ``pip install``; its output is shown only when it fails and was not probing."""
    # DeepSpeed is a source distribution: its kernels are built on demand, not here.
    process_env = {**os.environ, "DS_BUILD_OPS": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    process_env.pop("PYTHONPATH", None)
    command = [python(environment), "-m", "pip", "install", "--quiet", "--no-input", *arguments]
    result = subprocess.run(
        command, env=process_env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if result.returncode and not probing:
        print(result.stdout, file=sys.stderr, flush=True)
    return result.returncode == 0


def torch_sources(environment: Path, torch_pin: str) -> list[str]:
    """Find where ``torch==X+cpu`` comes from; return the pip options for that place."""
    probe = ["--dry-run", "--ignore-installed", "--no-deps", torch_pin]
    if pip(environment, *probe, probing=True):
        say(f"{torch_pin} comes from pip's configured sources")
        return []
    options = ["--extra-index-url", TORCH_CPU_INDEX]
    if pip(environment, *probe, *options):
        say(f"{torch_pin} comes from PyTorch's CPU index {TORCH_CPU_INDEX}")
        return options
    raise SetupError(
        f"pip finds {torch_pin} neither in its configured sources nor at {TORCH_CPU_INDEX}; "
        "check the network, or put the wheel in a directory and set PIP_FIND_LINKS to it"
    )


def missing(environment: Path, wanted: dict[str, str]) -> list[str]:
    """Pins of the lock that are not installed in exactly that version."""
    code = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.name.lower().replace('_', '-').replace('.', '-'): d.version "
        "for d in m.distributions()}))"
    )
    found = json.loads(subprocess.check_output([python(environment), "-I", "-c", code]))
    return [f"{name}=={v}" for name, v in wanted.items() if found.get(name.lower()) != v]


def install(environment: Path) -> None:
    """Install the lock and this checkout; safe to repeat.

    Raises:
        SetupError: pip failed.
    """
    started = environment / STARTED
    if environment.exists() and (started.exists() or not runs(environment)):
        say(f"removing the unfinished environment {environment}")
        shutil.rmtree(environment)
    (environment / STAMP).unlink(missing_ok=True)
    if not environment.exists():
        # The mark comes first: a kill while the environment is made is seen next time.
        environment.mkdir()
        started.touch()
        say(f"creating {environment}")
        venv.create(environment, with_pip=True)
    started.touch()
    wanted = pins(LOCK)
    if not pip(environment, PIP):
        raise SetupError(f"pip could not install {PIP}; its message is above")
    torch_pin = f"torch=={wanted['torch']}"
    has_torch = not missing(environment, {"torch": wanted["torch"]})
    sources = [] if has_torch else torch_sources(environment, torch_pin)
    say(f"installing {len(wanted)} pinned packages (about 3 minutes when nothing is cached)")
    if not pip(environment, "--no-deps", *sources, "-r", str(LOCK)):
        raise SetupError("pip could not install requirements/cpu.lock; its message is above")
    project = ["--no-deps", "--no-build-isolation", "-e", str(ROOT)]
    if not pip(environment, *project):
        raise SetupError("pip could not install rlpost itself; its message is above")
    if lacking := missing(environment, wanted):
        raise SetupError(f"still not installed after pip: {', '.join(lacking)}")
    started.unlink()


def main() -> int:
    environment = ROOT / ".venv"
    wanted = fingerprint(ROOT)
    (ROOT / ".cache").mkdir(exist_ok=True)
    with (ROOT / ".cache" / "setup.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up of this checkout is running; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        if is_ready(environment, wanted):
            return 0
        try:
            install(environment)
        except SetupError as error:
            say(str(error))
            return 2
        (environment / STAMP).write_text(wanted + "\n")
        say("ready")
        return 0


if __name__ == "__main__":
    sys.exit(main())
