"""The groups of actors that a stage without generators needs.

Owns their start, their registration and their end. Refuses to own what is trained on.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rlpost.cluster.ranks import rank_name
from rlpost.cluster.session import Device, resolve_device
from rlpost.cluster.trainers import TrainerGroup, sender_settings, spawn_trainers
from rlpost.control.slots import ActorSpec
from rlpost.stages.run import Run
from rlpost.weights.publisher import Transport, WeightsConfig


@asynccontextmanager
async def trained_policy(run: Run, *, model_path: str) -> AsyncIterator[TrainerGroup]:
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
    group = spawn_trainers(session, cfg.trainer, call_timeout_s=cfg.cluster.call_timeout_s)
    sender = sender_settings(
        transport=Transport.shared_memory,
        run_id=run.directory.host_wide_id,
        root=run.directory.root / ".weights",
        timeout_s=WeightsConfig().timeout_s,
    )
    await group.setup(cfg.trainer, model_path=model_path, seed=cfg.seed, sender=sender)
    run.train("trainer", group)
    try:
        yield group
    finally:
        await group.close()
