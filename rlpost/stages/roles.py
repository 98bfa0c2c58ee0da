"""The models of a run, and the actors that hold them.

Owns the record that a plan's list is made of: placement, the estimate of memory, spawning and
what is said of a run iterate over the list, so that who exists is decided once. Refuses to own
which roles a stage has and what is trained on.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from rlpost.cluster.ranks import rank_name
from rlpost.cluster.session import Device, Session, resolve_device
from rlpost.cluster.trained import TrainedGroup, spawn_trained
from rlpost.control.placement import ActorSpec
from rlpost.models.footprint import Footprint
from rlpost.stages.run import Run
from rlpost.training.model.loading import TrainedModel


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a role's memory depends on beside its own options."""

    micro_batch_tokens: int
    on_gpu: bool
    gpu_bytes: float | None  # of one GPU; None: the run is on CPU


@dataclass(frozen=True, kw_only=True)
class Role:
    """One model, or several alike, and the actors that hold it.

    ``spawn`` starts the actors and returns the group that the driver calls; None where a
    supervisor does that. ``trained`` groups are set up after their spawning and belong to
    checkpoints; what is frozen loads when it is spawned.
    """

    name: str
    actors: tuple[ActorSpec, ...]
    memory: Callable[[Workload], list[Footprint]]  # at the peak of each process
    spawn: Callable[[Session], Any] | None = None
    trained: bool = False


def actors_of(roles: Sequence[Role]) -> list[ActorSpec]:
    """Return every actor that needs a slot."""
    return [actor for role in roles for actor in role.actors]


def processes_of(roles: Sequence[Role]) -> list[str]:
    """Return what is started, in words. Example: ``["2 trainer ranks", "1 generator"]``."""
    found = []
    for role in roles:
        words = f"{role.actors[0].role} rank" if role.trained else role.actors[0].role
        count = len(role.actors)
        found.append(f"{count} {words}{'s' if count > 1 else ''}")
    return found


@asynccontextmanager
async def trained_policy(run: Run, *, model_path: str) -> AsyncIterator[TrainedGroup]:
    """Start the ranks of ``cfg.trainer`` on a model; the group belongs to checkpoints.

    Raises:
        UserError: not every rank fits into the cluster, or the model cannot be trained.
    """
    cfg, session = run.cfg, run.session
    assert session is not None
    on_gpu = resolve_device(cfg.cluster.device) is Device.cuda
    session.place(
        [
            ActorSpec(name=rank_name("trainer", rank), role="trainer", num_gpus=int(on_gpu))
            for rank in range(cfg.trainer.num_ranks)
        ]
    )
    group = spawn_trained(
        session, cfg.trainer, group="trainer", call_timeout_s=cfg.cluster.call_timeout_s
    )
    model = TrainedModel.policy(model_path, cfg.trainer)
    await group.setup(cfg.trainer, model=model, seed=cfg.seed)
    run.train("trainer", group)
    try:
        yield group
    finally:
        await group.close()
