"""``runs/<name>/``: what is there already decides whether a run starts, resumes or refuses.

Owns the paths of a run and the meaning of ``resume``. Refuses to own the content of
checkpoints (checkpoint/) and metrics (tracking/). Invariants: nothing is written before all
checks passed; a directory with another run's state is never overwritten.
"""

import fcntl
import hashlib
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlpost.checkpoint.state import write_text
from rlpost.checkpoint.store import CheckpointStore, load_manifest
from rlpost.errors import UserError

# What may differ between a run and its resumption: it changes no number of the steps done.
_FREE = (
    "resume",
    "run",
    "tracking",
    "checkpoint",
    "evaluation",
    "cluster",
    "failures",
    "weights",
    "trainer.steps",
    "trainer.threads",
    # The gradient is the same sum and checkpoints hold whole tensors: only rounding changes.
    "trainer.num_ranks",
    "trainer.zero_stage",
    "trainer.max_tokens_per_micro_batch",  # gradients do not depend on the split
    "generator",
)


@dataclass(frozen=True, kw_only=True)
class RunDirectory:
    """The paths of one run."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def dataset(self) -> Path:
        return self.root / "dataset"

    @property
    def wishes(self) -> Path:
        """What other processes ask of the run while it goes on; see ``rlpost scale``."""
        return self.root / "wishes.json"

    @property
    def stuck(self) -> Path:
        return self.root / "stuck.txt"

    @property
    def export(self) -> Path:
        return self.root / "export"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def log(self) -> Path:
        return self.root / "run.log"

    @property
    def host_wide_id(self) -> str:
        """Name of the run among all of a host; a resumed run has the same."""
        place = f"{socket.gethostname()}:{self.root.absolute()}"
        return f"{self.root.name}-{hashlib.blake2b(place.encode(), digest_size=4).hexdigest()}"

    @property
    def holds_a_run(self) -> bool:
        """Whether there is something that starting anew would lose."""
        recorded = self.metrics.exists() and self.metrics.stat().st_size > 0
        return recorded or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir()))

    def write_config(self, resolved: dict[str, Any]) -> None:
        """Write ``config.yaml``, creating the directory."""
        self.root.mkdir(parents=True, exist_ok=True)
        write_text(self.config, yaml.safe_dump(resolved, sort_keys=False))

    def lock(self) -> Any:
        """Keep other drivers out until the returned file is closed.

        Raises:
            UserError: another process runs in this directory.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        handle = (self.root / ".lock").open("w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.close()
            raise UserError(
                f"run.name: another process is running in {self.root}; wait for it, stop it, or "
                "choose another run.name"
            ) from error
        return handle


def config_hash(resolved: dict[str, Any]) -> str:
    """Hash of everything that must not change when a run resumes."""
    fixed = {k: v for k, v in _flat(resolved).items() if not _is_free(k)}
    text = json.dumps(fixed, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def find_resume_point(
    directory: RunDirectory, store: CheckpointStore, *, resume: str, resolved: dict[str, Any]
) -> Path | None:
    """Return the checkpoint to start from, None for a fresh start.

    Raises:
        UserError: the directory holds another run, ``never`` would overwrite one, or the
            named checkpoint does not exist.
        DataError: the named checkpoint is damaged.
    """
    if resume == "never":
        if directory.holds_a_run:
            raise UserError(
                f"resume=never, but {directory.root} already holds a run; choose another "
                "run.name, or move that directory away"
            )
        return None
    if directory.config.exists() and directory.holds_a_run:
        _refuse_other_config(directory, resolved)
    if resume == "auto":
        return store.latest()
    path = Path(resume).expanduser()
    load_manifest(path)
    return path


def _refuse_other_config(directory: RunDirectory, resolved: dict[str, Any]) -> None:
    before = _flat(yaml.safe_load(directory.config.read_text()) or {})
    now = _flat(resolved)
    changed = [
        f"{key} (was {before.get(key)!r}, now {now.get(key)!r})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not _is_free(key)
    ]
    if changed:
        raise UserError(
            f"run.name: {directory.root} holds a run with other settings: "
            f"{', '.join(changed[:4])}{' ...' if len(changed) > 4 else ''}; "
            "choose another run.name, or give the settings it was started with"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in _FREE)
