"""What is in a run's directory already decides whether a run starts, resumes or refuses.

Owns the meaning of ``resume``, and which options may differ between a run and its resumption.
Refuses to own paths (run_directory.py) and the content of checkpoints (checkpoint/) and metrics
(tracking/). Invariants: nothing is written before all checks passed; a directory that holds another
run's state, or damaged state, is never written to.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rlpost.checkpoint.state import read_json
from rlpost.checkpoint.store import CheckpointStore, load_manifest
from rlpost.config.defaults import default_values
from rlpost.errors import DataError, UserError
from rlpost.stages.run_directory import RunDirectory
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
    "trainer.reduce_dtype",
    "trainer.max_tokens_per_micro_batch",  # gradients do not depend on the split
    "trainer.packing",
    "reference.num_ranks",  # the copies are equal
    "reference.zero_stage",  # what is computed is the same
    "teacher.zero_stage",
    "data.workers",
    "generator",
)

# Choices that every run made which was started before there was a choice.
_UNSAID = {"optimizer.kind": "adamw", "adapter.kind": "none"}


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
