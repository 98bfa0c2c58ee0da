"""The adapter that an option names: where its files are, and whether plain peft loads all of it.

Owns the search among directories and runs, for every stage that uses an adapter as it is. Refuses
to own what an adapter may be (training/adapters/directory.py).
"""

import os
from pathlib import Path

from rlpost.errors import UserError
from rlpost.models.directory.config_file import ModelKind
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.training.adapters.adapt import rehearse_adapter
from rlpost.training.adapters.directory import CONFIG, AdapterDirectory


def adapter_directory(named: str, runs: str, *, field: str) -> Path:
    """Return where an adapter's files are: there, in that run, or in the run of that name.

    Raises:
        UserError: there is none.
    """
    place = Path(os.path.expanduser(named))
    for each in (place, place / "export", Path(os.path.expanduser(runs)) / named / "export"):
        if os.path.isfile(each / CONFIG):
            return each
    if os.path.isdir(place / "export"):
        raise UserError(
            f"{field}: the run in {place} trained a whole model, which needs no merging; use "
            f"{place / 'export'}"
        )
    raise UserError(
        f"{field}: {named!r} is neither an adapter's directory, which has {CONFIG}, nor a run "
        "that trained one; for example runs/sft"
    )


def require_loadable(adapter: AdapterDirectory, base: ModelDirectory) -> None:
    """Refuse an adapter of which plain peft, with which results are compared, would load a part.

    Raises:
        UserError: its configuration is not that of its tensors, or of the base.
    """
    fields = adapter.fields
    if fields["peft_type"] == "ADALORA" and fields.get("rank_pattern"):
        return  # peft cuts its layers to those ranks only when it has the tensors
    rehearse_adapter(None, directory=adapter, base=base, kind=ModelKind.policy)
