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
from rlpost.cluster.handle import Handle, Stateless
from rlpost.cluster.ranks import Ranks, rendezvous_address, spawn_ranks
from rlpost.cluster.session import Session
from rlpost.training.batch import TokenBatch
from rlpost.training.deepspeed_trainer import DeepSpeedTrainer
from rlpost.training.objective import Objective
from rlpost.training.packing import PackedBatches
from rlpost.training.scorer import FrozenScorer
from rlpost.training.settings import TrainerConfig
from rlpost.weights.publisher import Transport, WeightPublisher, make_sender
from rlpost.weights.transports.protocol import Locator

REFERENCE = "reference"


class TrainerRank:
    """What runs in each trainer process: a trainer, and on rank 0 the payload sender."""

    def __init__(self, *, rank: int) -> None:
        self._rank = rank

    def address(self) -> tuple[str, int]:
        """Return where the ranks meet: this node's address and a free port."""
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
            sender=make_sender(**sender, host=master[0]) if self._rank == 0 else None,
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

    def stage(self, version: int, num_receivers: int) -> Locator | None:
        return self._publisher.stage(version, num_receivers=num_receivers)

    def announce_again(self, num_receivers: int) -> Locator | None:
        return self._publisher.announce_again(num_receivers=num_receivers)

    def send(self) -> None:
        self._publisher.send()

    def release(self, version: int) -> None:
        self._publisher.release(version)

    def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return self._trainer.probe_logprobs(sequences)

    def sleep(self) -> int:
        return self._trainer.sleep()

    def begin_save(self, directory: str) -> None:
        self._trainer.begin_save(Path(directory))

    def finish_save(self) -> None:
        self._trainer.finish_save()

    def load(self, directory: str) -> None:
        self._trainer.load(Path(directory))

    def export(self, directory: str) -> None:
        self._trainer.save_hf(Path(directory))

    def close(self) -> None:
        self._publisher.close()
        self._trainer.close()


class TrainerGroup:
    """The driver's end of the ranks; also the ``weights.bus.Publisher``."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    async def setup(
        self, cfg: TrainerConfig, *, model_path: str, seed: int, sender: dict[str, Any]
    ) -> int:
        """Build the engines; returns the number of parameters."""
        return await self._ranks.setup(cfg, model_path=model_path, seed=seed, sender=sender)

    async def restart(self) -> None:
        """Replace every rank by a new one, with the weights the stage started from."""
        await self._ranks.restart()

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

    async def stage(self, version: int, *, num_receivers: int) -> Locator:
        locator = (await self._ranks.all("stage", version, num_receivers))[0]
        assert locator is not None
        return locator

    async def announce_again(self, *, num_receivers: int) -> Locator:
        locator = (await self._ranks.all("announce_again", num_receivers))[0]
        assert locator is not None
        return locator

    async def send(self) -> None:
        await self._ranks.all("send")

    async def release(self, version: int) -> None:
        await self._ranks.all("release", version)

    async def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return (await self._ranks.all("probe_logprobs", sequences))[0]

    async def sleep(self) -> int:
        """Leave memory until the next verb; returns the bytes of all ranks together."""
        return sum(await self._ranks.all("sleep"))

    async def begin_save(self, directory: Path) -> None:
        """Copy the state to host memory; the ranks then write it behind their other work."""
        await self._ranks.all("begin_save", str(directory))

    async def finish_save(self) -> None:
        """Wait until every rank has written its files.

        Raises:
            CheckpointWriteError: the disk refused; the next ``begin_save`` may succeed.
        """
        await self._ranks.all("finish_save")

    async def load(self, directory: Path) -> None:
        await self._ranks.all("load", str(directory))

    async def export(self, directory: Path) -> None:
        await self._ranks.all("export", str(directory))

    async def close(self) -> None:
        await self._ranks.all("close", timeout_s=30)


class ReferenceGroup:
    """The driver's end of the frozen reference model."""

    def __init__(self, scorers: Sequence[Stateless]) -> None:
        self._scorers = scorers

    async def logprobs(
        self, batches: PackedBatches, *, temperature: float
    ) -> list[list[np.ndarray]]:
        """Log-probs of every micro-batch's response tokens, indexed like ``batches``."""
        calls = (
            self._scorers[rank % len(self._scorers)].call("logprobs", rank_batches, temperature)
            for rank, rank_batches in enumerate(batches)
        )
        return await asyncio.gather(*calls)

    async def sleep(self) -> int:
        """Leave memory until the next call; returns the bytes of all scorers together."""
        return sum(await asyncio.gather(*(scorer.sleep() for scorer in self._scorers)))


def spawn_trainers(session: Session, cfg: TrainerConfig, *, call_timeout_s: float) -> TrainerGroup:
    """Create the rank actors; call ``setup`` on the group to build the engines."""
    ranks = spawn_ranks(
        session, TrainerRank, group="trainer", num=cfg.num_ranks, call_timeout_s=call_timeout_s
    )
    return TrainerGroup(ranks)


def spawn_reference(
    session: Session, cfg: TrainerConfig, *, model_path: str, call_timeout_s: float
) -> ReferenceGroup:
    """Create one frozen scorer of the stage's starting policy."""

    def spawn() -> Handle:
        actor = session.spawn(FrozenScorer, cfg, model_path=model_path, slot=REFERENCE)
        return Handle(actor, name=REFERENCE, timeout_s=call_timeout_s)

    return ReferenceGroup([Stateless(spawn)])


def sender_settings(
    *, transport: Transport, run_id: str, root: Path, timeout_s: float
) -> dict[str, Any]:
    """Arguments of ``make_sender`` that the driver knows; rank 0 adds its host."""
    return {
        "transport": transport,
        "run_id": run_id,
        "root": root,
        "timeout_s": timeout_s,
    }
