"""Resumable trainer state on disk, independent of the number of ranks and the ZeRO stage.

Owns the files of one trained role inside a directory that the checkpoint room makes appear
atomically: ``trainer.json``, safetensors with the fp32 master of each parameter and with what the
optimizer keeps of it, whole or in the parts that the ranks hold (shards.py), and each rank's random
state. Refuses to own where an engine keeps its
state (deepspeed_state.py). Invariant: a continuation with the same ranks and stage is bit-equal to
one without a checkpoint; with others it starts from the same masters and optimizer state.

Nothing is sent from rank to rank: each copies and writes the part that it updates, and of what
every rank holds the parameters that it was assigned.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rlpost.checkpoint.space import disk_errors
from rlpost.checkpoint.state import read_json
from rlpost.errors import DataError, UserError
from rlpost.training.optimizers.adamw import AdamWConfig
from rlpost.training.random_state import random_state, restore_random_state, seed_everything
from rlpost.training.zero.deepspeed_state import MASTER, EngineState, copy_out, scatter
from rlpost.training.zero.shards import Shards, TensorPart, write_file, write_shards

FORMAT = 3
READABLE = (2, FORMAT)  # before 3 every tensor was whole in one file
_META = "trainer.json"
_COMPANION = "adapter.safetensors"


@dataclass(frozen=True, kw_only=True)
class StepperProgress:
    """What the steps themselves remember; the same on every rank.

    Example: ``StepperProgress(step_id=3, step_result={"actor/lr": 1e-6}, nonfinite_in_row=0)``
    """

    step_id: int  # of the last step
    step_result: dict[str, float]
    nonfinite_in_row: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One rank's share of a checkpoint, copied: the engine may go on."""

    rank: int
    tensors: dict[str, Tensor]  # ``<parameter>.<kind>``, in host memory, whole or flat parts
    random: dict[str, Any]
    meta: str  # JSON; the same on every rank
    companion: dict[str, Tensor]  # of the adapter's kind, in host memory; the same on every rank
    parts: dict[str, TensorPart] = field(default_factory=dict)  # of which tensors, by their names


def take_snapshot(
    state: EngineState,
    *,
    rank: int,
    num_ranks: int,
    progress: StepperProgress,
    adapter: Mapping[str, Any] | None = None,
    companion: Mapping[str, Tensor] | None = None,
) -> Snapshot:
    """Copy what this rank holds of the state, between two steps; not collective.

    Args:
        state: of the engine; of a model with an adapter that is the adapter's.
        rank: this rank.
        num_ranks: how many there are.
        progress: ``load_state`` returns it.
        adapter: what the state is worthless without: the adapter's configuration and the
            fingerprint of its base. None: every weight is in the state.
        companion: state of the adapter's kind, the same on every rank.
    """
    meta = {
        "format": FORMAT,
        "num_ranks": num_ranks,
        "optimizer": state.kind.name,
        "updates": state.count(),
        "progress": asdict(progress),
        "adapter": adapter,
    }
    sizes = {name: state.numel(name) for name in state.shapes}
    owners = assign_owners(sizes, num_ranks=num_ranks)
    tensors, parts = copy_out(state, owned={name for name in owners if owners[name] == rank})
    return Snapshot(
        rank=rank,
        tensors=tensors,
        parts=parts,
        random=random_state(),
        meta=json.dumps(meta),
        companion={n: t.cpu().clone().contiguous() for n, t in (companion or {}).items()},
    )


def assign_owners(sizes: Mapping[str, int], *, num_ranks: int) -> dict[str, int]:
    """Give each name to a rank, the largest first, always to the one with the least.

    Example: ``assign_owners({"a": 3, "b": 2, "c": 2}, num_ranks=2) == {"a": 0, "b": 1, "c": 1}``
    """
    load, owners = [0] * num_ranks, {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owners[name] = load.index(min(load))
        load[owners[name]] += sizes[name]
    return owners


def write_snapshot(snapshot: Snapshot, directory: Path) -> None:
    """Write this rank's files; not collective, and not flushed: the store's commit does that.

    Raises:
        CheckpointWriteError: the disk refuses.
    """
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        write_shards(snapshot.tensors, snapshot.parts, directory, writer=snapshot.rank)
        _random_path(directory, snapshot.rank).write_text(json.dumps(snapshot.random))
        if snapshot.rank == 0:
            if snapshot.companion:
                write_file(snapshot.companion, directory / _COMPANION)
            (directory / _META).write_text(snapshot.meta)


def load_companion(directory: Path) -> dict[str, Tensor]:
    """Return what ``take_snapshot`` was given of an adapter's kind.

    Raises:
        DataError: the file is damaged.
    """
    path = directory / _COMPANION
    if not path.is_file():
        return {}
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a readable safetensors file ({error})") from error


def load_state(
    state: EngineState,
    directory: Path,
    *,
    rank: int,
    num_ranks: int,
    seed: int,
    adapter: Mapping[str, Any] | None = None,
) -> StepperProgress:
    """Restore what ``write_snapshot`` wrote on all ranks; collective.

    With another number of ranks the random generators start anew, from seed and step.

    Args:
        state: of the engine, between two steps; any ZeRO stage and dtype.
        directory: complete.
        rank: this rank.
        num_ranks: how many there are; may differ from when it was written.
        seed: the run's.
        adapter: as ``take_snapshot`` has it.

    Raises:
        DataError: files are missing or damaged, or parameters are missing.
        UserError: it is the state of another model.
    """
    meta = _Meta.read(directory / _META)
    meta.require_adapter(adapter, directory)
    meta.require_optimizer(state.kind.name, directory)
    shards = Shards(directory)
    # All of it on every rank before anything changes: all refuse, or none.
    shards.check(_tensors_of(state, begun=meta.updates > 0))
    if meta.num_ranks == num_ranks:
        _restore_random(_random_path(directory, rank))
    else:
        seed_everything(seed, meta.progress.step_id, rank)
    scatter(
        state,
        lambda name, kind, part: shards.read(f"{name}.{kind}", part),
        count=meta.updates,
    )
    return meta.progress


def _tensors_of(state: EngineState, *, begun: bool) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of what a checkpoint of this engine holds."""
    found = {f"{name}.{MASTER}": shape for name, shape in state.shapes.items()}
    for name in state.shapes if begun else ():
        found |= {f"{name}.{kind}": tuple(t.shape) for kind, t in state.spec(name).items()}
    return found


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path}: missing, so this is not a complete trainer checkpoint")
    return read_json(path)


def _restore_random(path: Path) -> None:
    try:
        restore_random_state(_read(path))
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class _Meta:
    """What ``trainer.json`` says."""

    num_ranks: int
    updates: int  # that the optimizer had counted
    progress: StepperProgress
    adapter: Mapping[str, Any] | None = None
    optimizer: str = AdamWConfig.kind

    def require_optimizer(self, name: str, directory: Path) -> None:
        """Raises UserError: what is kept of the parameters is another optimizer's."""
        if name != self.optimizer:
            raise UserError(
                f"{directory}: the state is that of optimizer={self.optimizer}, and this run has "
                f"optimizer={name}; resume with optimizer={self.optimizer}, or start a new run "
                "from an exported model (model.path=.../export)"
            )

    def require_adapter(self, adapter: Mapping[str, Any] | None, directory: Path) -> None:
        """Raises UserError: the state is of another base, or of another adapter, or of none."""
        saved, here = self.adapter or {}, json.loads(json.dumps(adapter or {}))
        for name in sorted(saved.keys() | here.keys()):
            if saved.get(name) != here.get(name):
                raise UserError(
                    f"{directory}: the state belongs to an adapter with {name}={saved.get(name)}, "
                    f"and this run has {here.get(name)}; resume with the model.path, model.adapter "
                    "and adapter that the run was started with, or choose another run.name"
                )

    @classmethod
    def read(cls, path: Path) -> "_Meta":
        meta = _read(path)
        if meta.pop("format", None) not in READABLE:
            raise DataError(
                f"{path}: not of format {FORMAT}, which this rlpost reads; start a new run from an "
                "exported model (model.path=.../export)"
            )
        if "adam_step" in meta:  # of a time when there was no other optimizer
            meta["updates"] = meta.pop("adam_step")
        try:
            return cls(**{**meta, "progress": StepperProgress(**meta["progress"])})
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: not what a trainer writes ({error})") from error


def _random_path(directory: Path, rank: int) -> Path:
    return directory / f"random_{rank:03d}.json"
