"""Everything a merge needs to know before anything is written.

Owns the run's directory and the room on its disk. Refuses to own what is merged (adapter.py,
adapters.py, several.py, soup.py). Invariant: everything that can be refused is refused here.
"""

from pathlib import Path
from typing import Protocol

from rlpost.checkpoint.space import format_bytes, free_bytes
from rlpost.errors import UserError
from rlpost.stages.merge.adapter import prepare_adapter
from rlpost.stages.merge.adapters import prepare_adapters
from rlpost.stages.merge.config import MergeConfig
from rlpost.stages.merge.several import prepare_several
from rlpost.stages.merge.soup import prepare_soup
from rlpost.stages.run_directory import RunDirectory


class MergePlan(Protocol):
    """A merge that passed every check."""

    @property
    def size_bytes(self) -> int:
        """Of the weights of the result."""
        ...

    def write(self, scratch: Path, *, directory: RunDirectory, settings_hash: str) -> str:
        """Write the result into ``scratch`` and return what to tell the person."""
        ...


def prepare(cfg: MergeConfig, *, directory: RunDirectory) -> MergePlan:
    """Check everything that can be checked before a weight is read.

    Raises:
        UserError: the run's directory is taken, the disk is too small, or the models do not fit.
    """
    directory.refuse_strangers()
    if directory.holds_a_run or directory.export.exists():
        raise UserError(
            f"run.name: {directory.root} holds a run or a merged model already; choose another "
            "run.name, or move it away"
        )
    plan: MergePlan
    if cfg.adapter:
        plan = prepare_adapter(cfg)
    elif cfg.merge.adds_adapters:
        plan = prepare_adapters(cfg)
    elif cfg.merge.chooses:
        plan = prepare_soup(cfg)
    else:
        plan = prepare_several(cfg)
    free = free_bytes(directory.root)
    if free < plan.size_bytes:
        raise UserError(
            f"run.dir: the result needs {format_bytes(plan.size_bytes)}, and {directory.root} has "
            f"{format_bytes(free)} of free space; make room there, or use another run.dir"
        )
    return plan
