"""Trainer rank groups in Ray actors: one verb of the driver is one call on every rank.

Owns the rank actor (a DeepSpeed trainer plus the sending end of the weight bus) and the
group handle. Refuses to own arithmetic. Invariant: verbs are collective; the group fails
as a whole when one rank fails.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlpost.algorithms.diagnostics import Tally, merge
from rlpost.cluster.handle import Handle
from rlpost.cluster.ranks import Ranks, rendezvous_address, spawn_ranks
from rlpost.cluster.session import Device, Session
from rlpost.training.batch import TokenBatch
from rlpost.training.deepspeed_trainer import DeepSpeedTrainer
from rlpost.training.objective import Objective
from rlpost.training.packing import PackedBatches
from rlpost.training.scorer import FrozenScorer
from rlpost.training.settings import TrainerConfig
from rlpost.weights.publisher import Transport, WeightPublisher, make_sender
from rlpost.weights.transports.protocol import Locator


class TrainerRank:
    """What runs in each trainer process: a trainer, and on rank 0 the payload sender."""

    def __init__(self, *, rank: int) -> None:
        self._rank = rank

    def address(self) -> tuple[str, int]:
        """Return this host's name and a free port for the ranks' rendezvous."""
        return rendezvous_address()

    def setup(
        self,
        cfg: TrainerConfig,
        *,
        model_path: str,
        world_size: int,
        master: tuple[str, int],
        seed: int,
        sender: dict[str, Any],
    ) -> int:
        """Build the engine; returns the number of parameters."""
        self._trainer = DeepSpeedTrainer(
            cfg,
            model_path=model_path,
            rank=self._rank,
            world_size=world_size,
            master_address=master[0],
            master_port=master[1],
            seed=seed,
        )
        self._publisher = WeightPublisher(
            self._trainer.iter_weights,
            shapes=self._trainer.weight_shapes(),
            sender=make_sender(**sender) if self._rank == 0 else None,
        )
        return self._trainer.num_parameters

    def forward_backward(
        self, batches: Sequence[TokenBatch], objective: Objective, temperature: float
    ) -> Tally:
        return self._trainer.forward_backward(batches, objective=objective, temperature=temperature)

    def logprobs(self, batches: Sequence[TokenBatch], temperature: float) -> list[np.ndarray]:
        return self._trainer.logprobs(batches, temperature)

    def optim_step(self, step_id: int) -> dict[str, float]:
        return self._trainer.optim_step(step_id)

    def stage(self, version: int) -> Locator | None:
        return self._publisher.stage(version)

    def send(self) -> None:
        self._publisher.send()

    def release(self, version: int) -> None:
        self._publisher.release(version)

    def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return self._trainer.probe_logprobs(sequences)

    def save(self, directory: str) -> None:
        self._trainer.save(Path(directory))

    def load(self, directory: str) -> None:
        self._trainer.load(Path(directory))

    def export(self, directory: str) -> None:
        self._trainer.save_hf(Path(directory))

    def close(self) -> None:
        self._publisher.close()
        self._trainer.close()


class TrainerGroup:
    """The driver's end of the ranks; also the ``weights.bus.Publisher``."""

    def __init__(self, handles: Sequence[Handle]) -> None:
        self._ranks = Ranks(handles)

    async def setup(
        self, cfg: TrainerConfig, *, model_path: str, seed: int, sender: dict[str, Any]
    ) -> int:
        master = await self._ranks.first("address")
        sender = {**sender, "host": master[0]}
        answers = await self._ranks.all(
            "setup",
            cfg,
            model_path=model_path,
            world_size=len(self._ranks),
            master=master,
            seed=seed,
            sender=sender,
        )
        return answers[0]

    async def forward_backward(
        self, batches: PackedBatches, *, objective: Objective, temperature: float
    ) -> dict[str, float]:
        """Accumulate gradients of one optimizer batch; returns its global metrics."""
        tallies = await self._ranks.each("forward_backward", batches, objective, temperature)
        return merge(tallies).metrics()

    async def logprobs(
        self, batches: PackedBatches, *, temperature: float
    ) -> list[list[np.ndarray]]:
        """Log-probs of every micro-batch's response tokens, indexed like ``batches``."""
        return await self._ranks.each("logprobs", batches, temperature)

    async def optim_step(self, step_id: int) -> dict[str, float]:
        return (await self._ranks.all("optim_step", step_id))[0]

    async def stage(self, version: int) -> Locator:
        locator = (await self._ranks.all("stage", version))[0]
        assert locator is not None
        return locator

    async def send(self) -> None:
        await self._ranks.all("send")

    async def release(self, version: int) -> None:
        await self._ranks.all("release", version)

    async def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return (await self._ranks.all("probe_logprobs", sequences))[0]

    async def save(self, directory: Path) -> None:
        await self._ranks.all("save", str(directory))

    async def load(self, directory: Path) -> None:
        await self._ranks.all("load", str(directory))

    async def export(self, directory: Path) -> None:
        await self._ranks.all("export", str(directory))

    async def close(self) -> None:
        await self._ranks.all("close", timeout_s=30)


class ReferenceGroup:
    """The driver's end of the frozen reference model."""

    def __init__(self, handles: Sequence[Handle]) -> None:
        self._handles = handles

    async def logprobs(
        self, batches: PackedBatches, *, temperature: float
    ) -> list[list[np.ndarray]]:
        """Log-probs of every micro-batch's response tokens, indexed like ``batches``."""
        calls = (
            self._handles[rank % len(self._handles)].call("logprobs", rank_batches, temperature)
            for rank, rank_batches in enumerate(batches)
        )
        return await asyncio.gather(*calls)


def spawn_trainers(
    session: Session, cfg: TrainerConfig, *, device: Device, call_timeout_s: float
) -> TrainerGroup:
    """Create the rank actors; call ``setup`` on the group to build the engines."""
    handles = spawn_ranks(
        session,
        TrainerRank,
        name="trainer",
        num=cfg.num_ranks,
        device=device,
        call_timeout_s=call_timeout_s,
    )
    return TrainerGroup(handles)


def spawn_reference(
    session: Session, cfg: TrainerConfig, *, model_path: str, device: Device, call_timeout_s: float
) -> ReferenceGroup:
    """Create one frozen scorer of the stage's starting policy."""
    actor = session.spawn(
        FrozenScorer, cfg, model_path=model_path, num_gpus=1 if device is Device.cuda else 0
    )
    return ReferenceGroup([Handle(actor, name="reference", timeout_s=call_timeout_s)])


def sender_settings(
    *, transport: Transport, run_id: str, root: Path, num_receivers: int, timeout_s: float
) -> dict[str, Any]:
    """Arguments of ``make_sender`` that the driver knows; the host is added by rank 0."""
    return {
        "transport": transport,
        "run_id": run_id,
        "root": root,
        "num_receivers": num_receivers,
        "timeout_s": timeout_s,
    }
