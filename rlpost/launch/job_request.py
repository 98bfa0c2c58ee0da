"""What a Ray job of ours is, as plain values: its command, its ids, what its end means.

Owns these rules. Refuses to own talking to a cluster (jobs.py). Invariant: an id is never
used twice on a cluster, because Ray keeps the jobs that ended.
"""

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlpost import __version__
from rlpost.errors import UserError

NAME_KEY = "rlpost_name"  # metadata of a job: what its person called it
# Never uploaded: the environment and outputs of a checkout. .gitignore and .rayignore add to it.
# No slash at the end: Ray would upload the directory, empty, after reading all that is in it.
EXCLUDES = ("/.git", "/.venv", "/.cache", "/runs", "/outputs", "/wandb", "__pycache__")
# Choices that a person makes in the shell and that must hold inside the job as well. Keys and
# tokens are absent on purpose: Ray shows a job's environment to everyone on the cluster.
PASSED_ON = (
    "RLPOST_CACHE",
    "TORCH_EXTENSIONS_DIR",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HF_HUB_DISABLE_TELEMETRY",
    "VLLM_CACHE_ROOT",
    "VLLM_NO_USAGE_STATS",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "MPLCONFIGDIR",
    "WANDB_MODE",
    "WANDB_CACHE_DIR",
    "WANDB_CONFIG_DIR",
    "RAY_USAGE_STATS_ENABLED",
)
# Ray kills a stopped job after 3 s unless this, read in the job's own environment, says more.
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
_ENDED = re.compile(r"^rlpost job: exit code (\d+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """A stage to run as a job.

    Example: ``JobRequest(name="a", argv=("rl", "seed=1"), working_dir=Path("/home/me"),
    python="/opt/venv/bin/python", stop_wait_s=900)``
    """

    name: str
    argv: tuple[str, ...]  # what follows `rlpost` on the command line
    working_dir: Path
    python: str  # interpreter on the cluster
    stop_wait_s: int  # how long a stop leaves the run for its checkpoint
    excludes: tuple[str, ...] = EXCLUDES
    env: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UserError: a field is out of range."""
        if not re.fullmatch(r"[A-Za-z0-9][\w.+=,-]*", self.name):
            raise UserError(
                "--name must start with a letter or digit and hold only letters, digits and "
                f". _ - + = , got {self.name!r}"
            )
        if self.stop_wait_s < 1:
            raise UserError(f"--stop-wait-s must be at least 1, got {self.stop_wait_s}")
        if not self.working_dir.is_dir():
            raise UserError(f"--working-dir: {self.working_dir} is no directory")

    @property
    def entrypoint(self) -> str:
        """The shell command; `exec` makes the driver the process that Ray signals."""
        command = ["-m", "rlpost.cli.job", __version__, *self.argv]
        python = shlex.quote(self.python)
        return (
            f"if [ -x {python} ]; then exec {python} {shlex.join(command)}; "
            f"else exec python {shlex.join(command)}; fi"
        )

    @property
    def runtime_env(self) -> dict[str, object]:
        """What Ray calls the runtime environment."""
        return {
            "working_dir": str(self.working_dir),
            "excludes": list(self.excludes),
            "env_vars": {**self.env, STOP_WAIT: str(self.stop_wait_s)},
        }


def passed_on(environ: Mapping[str, str], asked: Iterable[str] = ()) -> dict[str, str]:
    """Return the variables that a job gets: those of ``PASSED_ON`` that are set, and ``asked``.

    Args:
        environ: the person's environment.
        asked: ``NAME=VALUE``, or ``NAME`` for the value it has in ``environ``.

    Raises:
        UserError: a name is not set.
    """
    passed = {name: environ[name] for name in PASSED_ON if name in environ}
    for each in asked:
        name, equals, value = each.partition("=")
        if not equals and name not in environ:
            raise UserError(f"--env {name}: it is not set here; set it, or give --env {name}=VALUE")
        passed[name] = value if equals else environ[name]
    return passed


def next_id(name: str, taken: Iterable[str]) -> str:
    """Return ``name``, or ``name-2``, ``name-3``, ... when it was used before."""
    used, number, candidate = set(taken), 1, name
    while candidate in used:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def ending(code: int) -> str:
    """The last line that a job of ours prints; see ``ended_with``."""
    return f"rlpost job: exit code {code}"


def ended_with(logs: str) -> int | None:
    """Return the exit code that the run itself reported; None: it was killed.

    Ray keeps no exit code of a job that was stopped, so the job's last words have to do.
    """
    found = _ENDED.findall(logs)
    return int(found[-1]) if found else None
