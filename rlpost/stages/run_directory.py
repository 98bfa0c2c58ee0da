"""``runs/<name>/``: what is there already decides whether a run starts, resumes or refuses.

Owns the paths of a run and the meaning of ``resume``. Refuses to own the content of
checkpoints (checkpoint/) and metrics (tracking/). Invariants: nothing is written before all
checks passed; a directory that holds another run's state, damaged state, or anything that no run
wrote is never written to.
"""

import fcntl
import hashlib
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlpost.checkpoint.state import read_json, write_text
from rlpost.checkpoint.store import CheckpointStore, load_manifest
from rlpost.config.defaults import default_values
from rlpost.config.schema import RunConfig
from rlpost.errors import DataError, UserError
from rlpost.tracking.files.jsonl import read_metrics

# What may differ between a run and its resumption: it changes no number of the steps done.
_FREE = (
    "resume",
    "run",
    "tracking",
    "checkpoint",
    "early_stopping",
    "evaluation",
    "export",
    "cluster",
    "failures",
    "weights",
    "k",  # of pass@k: a question about answers that are there
    "trainer.steps",
    "trainer.epochs",
    "trainer.threads",
    # The gradient is the same sum and parts of a checkpoint have addresses: only rounding changes.
    "trainer.num_ranks",
    "trainer.sequence_parallel_size",
    "trainer.zero_stage",
    "trainer.offload_optimizer",
    "trainer.max_tokens_per_micro_batch",  # gradients do not depend on the split
    "trainer.packing",
    "reference.num_ranks",  # the copies are equal
    "data.workers",
    "generator",
)

# Choices that every run made which was started before there was a choice.
_UNSAID = {"optimizer.kind": "adamw", "adapter.kind": "none"}

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


def config_hash(resolved: dict[str, Any]) -> str:
    """Hash of everything that must not change when a run resumes."""
    fixed = {k: v for k, v in _flat(resolved).items() if not _is_free(k)}
    text = json.dumps(fixed, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def resume_point_of(cfg: Any, resolved: dict[str, Any], *, stage: str) -> Path | None:
    """Return the checkpoint from which a run of ``stage`` starts, None for a fresh start.

    Args:
        cfg: the options of the stage.
        resolved: the same as plain data.
        stage: its name.

    Raises:
        UserError, DataError: it cannot start; see ``find_resume_point`` and ``require_stage``.
    """
    directory = RunDirectory.of(cfg.run)
    found = find_resume_point(
        directory,
        CheckpointStore(directory.checkpoints),
        resume=cfg.resume,
        resolved=resolved,
        defaults=default_values(cfg),
    )
    if found is not None:
        require_stage(found, stage)
    return found


def find_resume_point(
    directory: RunDirectory,
    store: CheckpointStore,
    *,
    resume: str,
    resolved: dict[str, Any],
    defaults: Mapping[str, Any],
) -> Path | None:
    """Return the checkpoint to start from, None for a fresh start.

    Args:
        directory: of the run.
        store: its checkpoints.
        resume: auto, never or a checkpoint.
        resolved: every option of the run that starts.
        defaults: what an option was in a run that did not know it; see ``default_values``.

    Raises:
        UserError: the directory holds another run or foreign files, ``never`` would overwrite a
            run, or the named checkpoint does not exist.
        DataError: the named checkpoint, every checkpoint, or the run's own record is damaged.
    """
    directory.refuse_strangers()
    if resume == "never":
        if directory.holds_a_run:
            raise UserError(
                f"resume=never, but {directory.root} already holds a run; choose another "
                "run.name, or move that directory away"
            )
        return None
    if directory.holds_a_run:
        _refuse_other_config(directory, resolved, defaults)
    read_metrics(directory.metrics)  # raises where the run could not go on with them
    if resume == "auto":
        return _latest(store)
    path = Path(resume).expanduser()
    try:
        load_manifest(path)
    except DataError as error:
        raise DataError(
            f"resume={resume} is not a whole checkpoint: {error}; checkpoints are "
            "runs/<name>/checkpoints/step_NNNNNN"
        ) from error
    return path


def require_stage(checkpoint: Path, stage: str) -> None:
    """Raises UserError: another stage wrote the checkpoint, so it holds another run's state."""
    wrote = read_json(checkpoint / "driver.json").get("stage", stage)
    if wrote != stage:
        raise UserError(
            f"resume={checkpoint} is a checkpoint of rlpost {wrote}, and rlpost {stage} cannot go "
            "on from it; start from the model that the run exported, with model.path=RUN/export"
        )


def _latest(store: CheckpointStore) -> Path | None:
    """Return the newest whole checkpoint; None only where there is none at all."""
    found = store.latest()
    if found is None and (damaged := store.newest()) is not None:
        try:
            load_manifest(damaged)
        except DataError as error:
            raise DataError(
                f"{error}; no other checkpoint of the run is whole either, and starting anew would "
                f"overwrite what it did: restore one, or move {store.root.parent} away"
            ) from error
    return found


def _read_config(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
    else:
        if isinstance(tree, dict):
            return tree
        line, reason = "", f"it holds {type(tree).__name__} instead of settings"
    raise DataError(
        f"{path}{line}: cannot be read: {reason:.200}; it says which settings the run in "
        f"{path.parent} was started with: restore it, or choose another run.name"
    )


def _refuse_other_config(
    directory: RunDirectory, resolved: dict[str, Any], defaults: Mapping[str, Any]
) -> None:
    now = _flat(resolved)
    # The version that wrote the file may have had fewer options.
    unknown = {key: value for key, value in {**defaults, **_UNSAID}.items() if key in now}
    before = unknown | _flat(_read_config(directory.config))
    changed = [
        f"{key} (was {before.get(key)!r}, now {now.get(key)!r})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not _is_free(key)
    ]
    if changed:
        going_on = (
            f", or train its result on with model.path={directory.export} and another run.name"
            if directory.export.exists()
            else ""
        )
        raise UserError(
            f"run.name: {directory.root} holds a run with other settings: "
            f"{', '.join(changed[:4])}{' ...' if len(changed) > 4 else ''}; "
            f"choose another run.name, or give the settings it was started with{going_on}"
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
