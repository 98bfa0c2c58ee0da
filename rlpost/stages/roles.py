"""The models of a run, and the actors that hold them.

Owns the record that a plan's list is made of, the roles that several stages have, and how a
list comes up and ends: placement, the estimate of memory, spawning, set-up, checkpoints and what
is said of a run iterate over the list, so that who exists is decided once. Refuses to own which
roles a stage has and what is trained on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from rlpost.cluster.ranks import rank_name
from rlpost.cluster.session import ClusterConfig, Device, Session
from rlpost.cluster.trained import MakeSender, spawn_trained
from rlpost.control.placement import ActorSpec, picture
from rlpost.models.directory.config_file import ModelKind
from rlpost.models.footprint import Footprint, in_turn
from rlpost.models.locate import parameter_count
from rlpost.models.shape import model_shape
from rlpost.training.memory import trained_footprint
from rlpost.training.model.loading import TrainedModel
from rlpost.training.optimizers.adamw import AdamWConfig
from rlpost.training.optimizers.base import OptimizerConfig
from rlpost.training.optimizers.check import check_adapter, check_device, check_offload
from rlpost.training.optimizers.planned import planned_bytes
from rlpost.training.packing.pack import Packed
from rlpost.training.precision import resolve_dtype
from rlpost.training.sequence_division import require_divisible
from rlpost.training.settings import TrainerConfig

log = logging.getLogger(__name__)

CHECKPOINT_BYTES_PER_PARAMETER = 5  # the fp32 master, and slack


First = Callable[[Session], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a role's memory depends on beside its own options."""

    micro_batch_tokens: int
    on_gpu: bool
    gpu_bytes: float | None  # of one GPU; None: the run is on CPU


@dataclass(frozen=True, kw_only=True)
class Role:
    """One model, or several alike, or what judges, and the actors that hold it.

    ``spawn`` starts the actors and returns the group that the driver calls; None where a
    supervisor does that. Groups that hold models are set up after their spawning; ``trained`` ones
    belong to checkpoints.
    """

    name: str
    processes: str  # what is started, in words; see ``counted``
    actors: tuple[ActorSpec, ...]  # those that need a slot, because they hold a model
    memory: Callable[[Workload], list[Footprint]]  # at the peak of each process
    spawn: Callable[[Session], Any] | None = None
    trained: bool = False
    checkpoint_bytes: int = 0  # of one checkpoint, at most
    export_bytes: int = 0  # if it is what a run exports
    notes: tuple[str, ...] = ()  # sentences on what was chosen for it, for ``rlpost plan``


def trained_role(
    name: str,
    cfg: TrainerConfig,
    *,
    model: TrainedModel,
    seed: int,
    cluster: ClusterConfig,
    device: Device,
    make_sender: MakeSender | None = None,
    sends: Mapping[str, float] | None = None,
    optimizer: OptimizerConfig | None = None,
) -> Role:
    """Return the ranks that train ``model``, in rank order; ``spawn_trained`` has the arguments.

    Args:
        sends: pages on the host of rank 0, by name, for what it pushes; None: it pushes nothing.

    Raises:
        UserError: the optimizer cannot work with this device or this model, or the ranks cannot
            divide its micro-batches.
    """
    for each in (model, *model.frozen):
        require_divisible(each.path, cfg, field=each.labels.field)
    gpus = int(device is Device.cuda)
    optimizer, adapter = optimizer or AdamWConfig(), model.adapter
    num_trained = parameter_count(model.path) if adapter is None else adapter.num_trainable
    check_device(optimizer, on_gpu=gpus > 0)
    check_offload(cfg, on_gpu=gpus > 0, has_adapter=adapter is not None)
    if adapter is not None:
        has_head = model.head.kind is not ModelKind.policy
        check_adapter(optimizer, adapter.config, trainer=cfg, has_head=has_head)
    kept = planned_bytes(
        optimizer,
        cfg,
        model_path=model.path,
        kind=model.head.kind,
        num_adapted=None if adapter is None else num_trained,
    )
    return Role(
        name=name,
        processes=counted(cfg.num_ranks, f"{name} rank"),
        actors=tuple(
            ActorSpec(name=rank_name(name, rank), role=name, num_gpus=gpus)
            for rank in range(cfg.num_ranks)
        ),
        memory=partial(_trained_memory, name, cfg, model, cluster, kept, sends or {}),
        spawn=partial(
            spawn_trained,
            cfg=cfg,
            group=name,
            model=model,
            seed=seed,
            call_timeout_s=cluster.call_timeout_s,
            make_sender=make_sender,
            optimizer=optimizer,
        ),
        trained=True,
        checkpoint_bytes=CHECKPOINT_BYTES_PER_PARAMETER * num_trained + kept,
        export_bytes=resolve_dtype(cfg.dtype).itemsize * num_trained,
    )


def _trained_memory(
    name: str,
    cfg: TrainerConfig,
    model: TrainedModel,
    cluster: ClusterConfig,
    optimizer_bytes: int,
    sends: Mapping[str, float],
    work: Workload,
) -> list[Footprint]:
    ranks = [
        trained_footprint(
            rank_name(name, rank),
            model_shape(model.path),
            cfg,
            num_tokens=work.micro_batch_tokens,
            value_bytes=resolve_dtype(cfg.dtype).itemsize,
            on_gpu=work.on_gpu,
            has_head=model.head.kind is ModelKind.policy,
            frozen=[(model_shape(each.path), each.is_divided) for each in model.frozen],
            num_trainable=None if model.adapter is None else model.adapter.num_trainable,
            optimizer_bytes=optimizer_bytes,
        )
        for rank in range(cfg.num_ranks)
    ]
    host, *gpu = ranks[0]
    ranks[0] = [replace(host, shared=sends), *gpu]
    return [
        each
        for rank in ranks
        for each in (in_turn(rank, "training") if cluster.offload_idle else rank)
    ]


def actors_of(roles: Sequence[Role]) -> list[ActorSpec]:
    """Return every actor that needs a slot."""
    return [actor for role in roles for actor in role.actors]


def checkpoint_bytes_of(roles: Sequence[Role]) -> int:
    """Return the size of one checkpoint, at most."""
    return sum(role.checkpoint_bytes for role in roles)


def counted(number: int, noun: str) -> str:
    """Example: ``counted(2, "trainer rank") == "2 trainer ranks"``."""
    return f"{number} {noun}{'s' if number > 1 else ''}"


async def start_roles(
    roles: Sequence[Role],
    session: Session,
    *,
    offload_idle: bool,
    supervised: Callable[[], Awaitable[None]] | None = None,
    first: First | None = None,
) -> list[Any]:
    """Place all actors, spawn the groups and set them up side by side.

    Where a GPU has several actors the engines come first: while one measures how much of the GPU
    is free, nobody else may take or give back any of it.

    Args:
        roles: who exists.
        session: where they run.
        offload_idle: memory is short, so each model leaves it before the next one loads.
        supervised: boots the actors of the roles whose ``spawn`` is None.
        first: has the slots to itself before anything else is spawned.

    Returns:
        The group of each role, None for one that a supervisor spawned.

    Raises:
        UserError: not every actor fits into the cluster, or a model cannot be trained.
        InfrastructureError: an actor did not come up.
    """
    slots = session.place(actors_of(roles))
    for line in picture(slots):
        log.info("slots: %s", line)
    if first is not None:
        await first(session)
    if supervised is not None and not offload_idle and any(0 < s.num_gpus < 1 for s in slots):
        await supervised()
        supervised = None
    groups, frozen = [], list[Any]()
    for role in roles:
        group = None if role.spawn is None else role.spawn(session)
        groups.append(group)
        is_frozen_model = bool(group is not None and role.actors and not role.trained)
        if is_frozen_model:
            frozen.append(group)
            if offload_idle:
                await group.setup()
                await group.sleep()
    trained = [group for role, group in zip(roles, groups, strict=True) if role.trained]
    if offload_idle:
        await asyncio.gather(*(group.setup() for group in trained))
        await sleep_all(*trained)
        trained, frozen = [], []
    booting = [] if supervised is None else [supervised()]
    await asyncio.gather(*booting, *(group.setup() for group in (*trained, *frozen)))
    return groups


class CanSleep(Protocol):
    """A group of actors whose model can leave memory while it waits."""

    async def sleep(self) -> int:
        """Leave until the next verb, which brings it back; returns the bytes."""


class MakesRoom(CanSleep, Protocol):
    """A trained group, which has the engines that share its devices leave them."""

    @property
    def comes(self) -> Callable[[], Awaitable[None]]:
        """Returns once the engines have left, where both take turns."""


async def sleep_all(*models: CanSleep | None) -> int:
    """Have all that exist leave memory, side by side; returns the bytes."""
    return sum(await asyncio.gather(*(model.sleep() for model in models if model is not None)))


class CanScore(CanSleep, Protocol):
    """A group of actors that scores tokens."""

    async def score(self, packed: Packed, *, temperature: float = 1.0) -> list[list[np.ndarray]]:
        """Return one value for each scored token of every micro-batch."""


def frozen_score(
    frozen: CanScore, *, beside: MakesRoom, cfg: ClusterConfig
) -> Callable[[Packed], Awaitable[list[list[np.ndarray]]]]:
    """Return ``frozen.score`` for a moment in which ``beside``, which trains, has nothing to do.

    With ``cluster.offload_idle`` all others leave memory before the frozen model is asked, and it
    leaves after that.
    """

    async def score(packed: Packed) -> list[list[np.ndarray]]:
        if not cfg.offload_idle:
            return await frozen.score(packed)
        await beside.comes()
        await beside.sleep()
        answers = await frozen.score(packed)
        await sleep_all(frozen)
        return answers

    return score


class CanClose(Protocol):
    """Actors that end when they are told to."""

    async def close(self) -> None:
        """End the actors."""


async def close_all(groups: Iterable[CanClose]) -> None:
    """Close in parallel; whoever does not answer is killed with the session."""
    results = await asyncio.gather(*(group.close() for group in groups), return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            log.warning("closing: %s", result)
