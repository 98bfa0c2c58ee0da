"""``runs/<name>/``: the paths of a run.

Owns what a run writes there and under which names, and the lock against a second driver. Refuses to
own what its content means for a start (resume_point.py). Invariant: a directory in which something
lies that no run wrote is never written to.
"""

import fcntl
import hashlib
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlpost.checkpoint.state import write_text
from rlpost.config.schema import RunConfig
from rlpost.errors import UserError

# What a run writes into its directory.
_WRITTEN = (
    "checkpoints",
    "config.yaml",
    "cost.json",
    "dataset",
    "evaluation.jsonl",
    "examples.jsonl",
    "export",
    "gates.jsonl",
    "lineage.json",
    "merge.json",
    "metrics.jsonl",
    "pipeline.yaml",
    "provenance.json",
    "reference.npz",
    "report.html",
    "rollouts",
    "run.log",
    "scores",
    "stages",
    "stuck.txt",
    "tensorboard",
    "trace.json",
    "wandb",
    "scale_request.json",
)
_DIRECTORIES = (
    "checkpoints",
    "dataset",
    "export",
    "rollouts",
    "scores",
    "stages",
    "tensorboard",
    "wandb",
)
# What it leaves there when it is killed (`.nfs` is what NFS makes of an open file's removal).
_SCRATCH = (".lock", ".weights", ".export-scratch", ".nfs", *(f".{name}." for name in _WRITTEN))


@dataclass(frozen=True, kw_only=True)
class RunDirectory:
    """The paths of one run."""

    root: Path

    @classmethod
    def of(cls, run: RunConfig) -> "RunDirectory":
        """Return the directory of a run that has a name."""
        assert run.name is not None
        return cls(root=Path(run.dir).expanduser() / run.name)

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def evaluation(self) -> Path:
        """The answers of ``rlpost evaluate``."""
        return self.root / "evaluation.jsonl"

    @property
    def provenance(self) -> Path:
        """What gave and judged the answers of ``rlpost evaluate``."""
        return self.root / "provenance.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def cost(self) -> Path:
        """What the run has cost so far; see ledger.py."""
        return self.root / "cost.json"

    @property
    def examples(self) -> Path:
        """Training examples with their masks, for the report."""
        return self.root / "examples.jsonl"

    @property
    def reference(self) -> Path:
        """What a reference said of the rows before the first step."""
        return self.root / "reference.npz"

    @property
    def dataset(self) -> Path:
        return self.root / "dataset"

    @property
    def scale_request(self) -> Path:
        """What other processes ask of the run while it goes on; see ``rlpost scale``."""
        return self.root / "scale_request.json"

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
        records = (self.metrics, self.evaluation)
        recorded = any(each.exists() and each.stat().st_size > 0 for each in records)
        return recorded or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir()))

    def refuse_strangers(self) -> None:
        """Refuse a directory in which something lies that no run wrote.

        Raises:
            UserError: names it, or says why the directory cannot be used.
        """
        try:
            names = sorted(path.name for path in self.root.iterdir()) if self.exists else []
        except OSError as error:
            raise UserError(
                f"run.dir: {self.root} cannot be a run's directory: {error.strerror}; set run.dir "
                "to a directory you can write to"
            ) from error
        strangers = [n for n in names if not self._is_of_a_run(n)]
        if strangers:
            shown = ", ".join(f"{name!a:.80}" for name in strangers[:4])
            raise UserError(
                f"run.name: {self.root} holds what no run wrote: {shown}"
                f"{' ...' if len(strangers) > 4 else ''}; choose another run.name, or move it away"
            )

    def _is_of_a_run(self, name: str) -> bool:
        """Whether a run writes something of that name and kind; links may lead elsewhere."""
        path = self.root / name
        if name in _DIRECTORIES:
            return path.is_dir()
        return name.startswith(_SCRATCH) or (name in _WRITTEN and path.is_file())

    @property
    def exists(self) -> bool:
        """Whether there is anything of that name; raises OSError where nobody can look."""
        try:
            self.root.lstat()
        except FileNotFoundError:
            return False
        return True

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
