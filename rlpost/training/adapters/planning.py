"""What a run puts on its base, decided before anything starts.

Owns the decision, the checks against a base without weights and the count of what is trained.
Refuses to own the layers (adapt.py). Invariant: what passes can be put into the base that it was
checked with.
"""

from pathlib import Path
from typing import Any

from rlpost.models.directory.config_file import ModelKind
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.fingerprint import fingerprint_of
from rlpost.training.adapters.adapt import rehearse_adapter
from rlpost.training.adapters.adaptation import Adaptation
from rlpost.training.adapters.config import NoAdapterConfig, refuse_supervised_only
from rlpost.training.adapters.directory import FIELD, AdapterDirectory


def plan_adaptation(
    config: Any,
    *,
    start: str | None,
    base: ModelDirectory,
    name: str,
    kind: ModelKind = ModelKind.policy,
) -> Adaptation | None:
    """Return what is put on ``base``; None: nothing, every weight is trained.

    Args:
        config: options of the kind that the user chose.
        start: adapter directory to start from.
        base: the model.
        name: what the user called it.
        kind: what it is used for.

    Raises:
        UserError: the adapter does not fit the base.
    """
    is_new = not isinstance(config, NoAdapterConfig)
    if start is None and not is_new:
        return None
    fingerprint = fingerprint_of(base.tensors)
    directory = None
    if start is not None:
        directory = AdapterDirectory.read(start, field=FIELD)
        directory.require_base(base.path, fingerprint, name=name)
    if directory is not None:
        read = directory.options()
        if is_new:
            why = f"{FIELD}={start} would be merged into the base, whose weights it leaves alone"
            refuse_supervised_only(read, why=why)
        rehearse_adapter(read, directory=directory, base=base, kind=kind)
        directory.require_finite()
        config = config if is_new else read
    is_hub_id = not Path(name).expanduser().exists() and "/" in name
    return Adaptation(
        config=config,
        base=fingerprint,
        base_name=name if is_hub_id else str(base.path),
        num_trainable=rehearse_adapter(
            config, directory=None if is_new else directory, base=base, kind=kind
        ),
        continues=None if directory is None or is_new else str(directory.path),
        merges=str(directory.path) if directory is not None and is_new else None,
    )
