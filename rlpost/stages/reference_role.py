"""The role of a frozen reference.

Owns its slots, its memory and what is refused of it. Refuses to own when there is one (each stage's
plan) and its actors (cluster/reference.py).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from rlpost.cluster.reference import REFERENCE, reference_slots, spawn_frozen
from rlpost.cluster.session import ClusterConfig, Device
from rlpost.control.placement import ActorSpec, Placement
from rlpost.errors import UserError
from rlpost.models.footprint import Footprint, in_turn
from rlpost.models.shape import model_shape
from rlpost.stages.roles import Role, Workload, counted
from rlpost.training.memory import frozen_footprint
from rlpost.training.model.loading import TrainedModel
from rlpost.training.precision import resolve_dtype
from rlpost.training.settings import ReferenceRanksConfig, TrainerConfig


def reference_role(
    cfg: TrainerConfig,
    *,
    model: TrainedModel,
    ranks: ReferenceRanksConfig,
    cluster: ClusterConfig,
    device: Device,
) -> Role:
    """Return the frozen ``model``, at its start, that log-probs are compared with.

    Raises:
        UserError: two ranks that divide it would share a GPU.
    """
    gpus, num = int(device is Device.cuda), ranks.num_ranks
    if ranks.zero_stage == 3 and device is Device.cuda:
        require_own_gpus(num, cfg, cluster, field="reference.num_ranks")
    model = replace(model.at_start, is_divided=ranks.zero_stage == 3)
    slots = reference_slots(num)
    return Role(
        name=REFERENCE,
        processes=counted(num, REFERENCE if num == 1 else f"{REFERENCE} rank"),
        actors=tuple(ActorSpec(name=slot, role=REFERENCE, num_gpus=gpus) for slot in slots),
        memory=partial(_reference_memory, slots, cfg, model, cluster),
        spawn=partial(
            spawn_frozen,
            cfg=cfg,
            model=model,
            slots=slots,
            call_timeout_s=cluster.call_timeout_s,
        ),
    )


def require_own_gpus(
    num_ranks: int, trainer: TrainerConfig, cluster: ClusterConfig, *, field: str
) -> None:
    """Check that ranks which divide a frozen model, ``field`` of them, share no GPU.

    Raises:
        UserError: two would, which NCCL cannot join.
    """
    if cluster.placement is Placement.colocated and num_ranks > trainer.num_ranks:
        raise UserError(
            f"{field}={num_ranks} with cluster.placement=colocated must be at most "
            f"trainer.num_ranks={trainer.num_ranks}, on whose GPUs they are: NCCL joins no two "
            "ranks of one GPU; lower it, or use cluster.placement=packed"
        )


def _reference_memory(
    slots: Sequence[str],
    cfg: TrainerConfig,
    model: TrainedModel,
    cluster: ClusterConfig,
    work: Workload,
) -> list[Footprint]:
    copies = [
        frozen_footprint(
            slot,
            model_shape(model.path),
            num_tokens=work.micro_batch_tokens,
            value_bytes=resolve_dtype(cfg.dtype).itemsize,
            logprob_chunk=cfg.logprob_chunk,
            on_gpu=work.on_gpu,
            sharing=len(slots) if model.is_divided else 1,
        )
        for slot in slots
    ]
    return [
        each
        for needs in copies
        for each in (in_turn(needs, REFERENCE) if cluster.offload_idle else needs)
    ]
