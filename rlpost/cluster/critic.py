"""The critic's rank group in Ray actors.

Owns the rank actor and the group handle. Refuses to own arithmetic. Invariant: verbs are
collective; the group fails as a whole when one rank fails.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlpost.algorithms.critic_loss import CriticLossConfig
from rlpost.algorithms.diagnostics import Tally, merge
from rlpost.cluster.ranks import Ranks, rendezvous_address, spawn_ranks
from rlpost.cluster.session import Session
from rlpost.training.batch import TokenBatch
from rlpost.training.deepspeed_critic import DeepSpeedCritic
from rlpost.training.deepspeed_stepper import Rank
from rlpost.training.packing import PackedBatches
from rlpost.training.settings import TrainerConfig


class CriticRank:
    """What runs in each critic process."""

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
        policy_path: str,
        world_size: int,
        master: tuple[str, int],
        seed: int,
    ) -> int:
        """Build the engine; returns the number of parameters."""
        place = Rank(
            rank=self._rank,
            world_size=world_size,
            master_address=master[0],
            master_port=master[1],
        )
        self._critic = DeepSpeedCritic(
            cfg, model_path=model_path, policy_path=policy_path, place=place, seed=seed
        )
        return self._critic.num_parameters

    def values(self, batches: Sequence[TokenBatch]) -> list[np.ndarray]:
        return self._critic.values(batches)

    def forward_backward(self, batches: Sequence[TokenBatch], loss: CriticLossConfig) -> Tally:
        return self._critic.forward_backward(batches, loss=loss)

    def optim_step(self, step_id: int) -> dict[str, float]:
        return self._critic.optim_step(step_id)

    def sleep(self) -> int:
        return self._critic.sleep()

    def begin_save(self, directory: str) -> None:
        self._critic.begin_save(Path(directory))

    def finish_save(self) -> None:
        self._critic.finish_save()

    def load(self, directory: str) -> None:
        self._critic.load(Path(directory))

    def export(self, directory: str) -> None:
        self._critic.save_hf(Path(directory))

    def close(self) -> None:
        self._critic.close()


class CriticGroup:
    """The driver's end of the critic's ranks."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    async def setup(
        self, cfg: TrainerConfig, *, model_path: str, policy_path: str, seed: int
    ) -> int:
        """Build the engines; returns the number of parameters.

        Args:
            cfg: what ``spawn_critic`` was given.
            model_path: ``critic.init_from``, located; the policy's model by default.
            policy_path: the policy's model, located.
            seed: of the random generators.
        """
        return await self._ranks.setup(
            cfg, model_path=model_path, policy_path=policy_path, seed=seed
        )

    async def restart(self) -> None:
        """Replace every rank by a new one, with the weights the stage started from."""
        await self._ranks.restart()

    async def values(self, batches: PackedBatches) -> list[list[np.ndarray]]:
        """Value before each response token, indexed like ``batches`` (``packing.unpack``)."""
        return await self._ranks.each("values", batches)

    async def forward_backward(
        self, batches: PackedBatches, *, loss: CriticLossConfig
    ) -> dict[str, float]:
        """Accumulate gradients of one optimizer batch; returns its global metrics.

        The batches carry ``values_R`` and ``returns_R``.
        """
        return merge(await self._ranks.each("forward_backward", batches, loss)).metrics()

    async def optim_step(self, step_id: int) -> dict[str, float]:
        return (await self._ranks.all("optim_step", step_id))[0]

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
        """Write a reward model directory (``AutoModelForSequenceClassification``)."""
        await self._ranks.all("export", str(directory))

    async def close(self) -> None:
        await self._ranks.all("close", timeout_s=30)


def spawn_critic(session: Session, cfg: TrainerConfig, *, call_timeout_s: float) -> CriticGroup:
    """Create the rank actors; call ``setup`` on the group to build the engines.

    Args:
        session: the run's.
        cfg: from ``CriticConfig.trainer(policy's config)``.
        call_timeout_s: deadline of a verb.
    """
    ranks = spawn_ranks(
        session, CriticRank, group="critic", num=cfg.num_ranks, call_timeout_s=call_timeout_s
    )
    return CriticGroup(ranks)
