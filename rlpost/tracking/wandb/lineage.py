"""The exported model of a run as a W&B artefact, with its origin; no files are uploaded.

Owns the artefact of ``export/`` and its metadata. Refuses to own when it is logged (tracker.py).
Invariant: the artefact refers to files at their path and has no copy of them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Settings that describe the origin of a model.
_FACTS = ("model.path", "data.train", "data.heldout", "reward_models", "resume", "seed")


def model_artifact(run_dir: Path, *, identity: str, step: int, config: Mapping[str, Any]) -> Any:
    """Return the artefact of type ``model`` for ``<run_dir>/export`` at ``step``.

    Raises:
        OSError: there is no export.
    """
    import wandb

    export = (run_dir / "export").resolve(strict=True)
    artifact = wandb.Artifact(
        f"model-{identity}",
        type="model",
        description="Referred to, not uploaded.",
        metadata=facts(config, run_dir=run_dir, step=step),
    )
    # With the step in the path, a later export of the same run is another version.
    artifact.add_reference(export.as_uri(), name=f"step_{step:06d}", checksum=False)
    return artifact


def facts(config: Mapping[str, Any], *, run_dir: Path, step: int) -> dict[str, Any]:
    """Return where a model came from, as flat plain data."""
    found: dict[str, Any] = {"run_dir": str(run_dir.resolve()), "step": step}
    for name in _FACTS:
        value: Any = config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value not in (None, {}):
            found[name] = value
    return found
