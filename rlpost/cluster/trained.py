"""Groups of ranks that train a model, in Ray actors: one verb is one call on every rank.

Owns the rank actor and the group handle, for whatever is trained: policy, critic. Refuses to
own arithmetic and the frozen scorers (reference.py). Invariant: verbs are collective; the group
fails as a whole when one rank fails.
"""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlpost.algorithms.diagnostics import Tally, merge
from rlpost.algorithms.loss import Objective
from rlpost.cluster.batch_store import HoldsBatches
from rlpost.cluster.ranks import Ranks, rank_names, rendezvous_address, spawn_ranks
from rlpost.cluster.session import Session
from rlpost.training.model.loading import TrainedModel
from rlpost.training.optimizers.base import OptimizerConfig
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.packing.pack import Packed
from rlpost.training.settings import TrainerConfig
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer
from rlpost.training.zero.rank import Rank
from rlpost.weights.deadline import CALL_S
from rlpost.weights.publisher import WeightPublisher
from rlpost.weights.transports.choice import Senders
from rlpost.weights.transports.protocol import Locator, Seat
from rlpost.weights.transports.route import joined

MakeSender = Callable[..., Senders | None]  # given the host of rank 0 and the rank of its own


class TrainedRank:
    """What runs in each process: a trainer, and where a weight bus exists its sending end."""

    def __init__(self, *, rank: int) -> None:
        self._rank = rank
        self._publisher: WeightPublisher | None = None

    def address(self) -> tuple[str, int]:
        """Return where the ranks meet: this node's address and a free port."""
        return rendezvous_address()

    def setup(
        self,
        *,
        cfg: TrainerConfig,
        model: TrainedModel,
        world_size: int,
        master: tuple[str, int],
        seed: int,
        make_sender: MakeSender | None,
        optimizer: OptimizerConfig | None,
    ) -> int:
        """Build the engine; returns the number of parameters."""
        host, port = master
        place = Rank(rank=self._rank, world_size=world_size, master_address=host, master_port=port)
        self._trainer = DeepSpeedTrainer(
            cfg, model=model, place=place, seed=seed, optimizer=optimizer
        )
        if make_sender is not None:
            self._publisher = WeightPublisher(
                lambda: self._trainer.served,
                senders=make_sender(host=host, rank=self._rank),
            )
        return self._trainer.num_parameters

    def publish(self, verb: str, *args: Any, **options: Any) -> Any:
        """Call a verb of the ``WeightPublisher``."""
        return getattr(self._publisher, verb)(*args, **options)

    def forward_backward(
        self, batches: Sequence[MicroBatch], objective: Objective, temperature: float
    ) -> Tally:
        return self._trainer.forward_backward(batches, objective, temperature=temperature)

    def measure(self, batches: Sequence[MicroBatch], objective: Objective) -> Tally:
        return self._trainer.measure(batches, objective)

    def score(
        self, batches: Sequence[MicroBatch], temperature: float, adapter: bool
    ) -> list[np.ndarray]:
        return self._trainer.score(batches, temperature, adapter=adapter)

    def optim_step(self, step_id: int) -> dict[str, float]:
        self._weights_change()
        return self._trainer.optim_step(step_id)

    def _weights_change(self) -> None:
        if self._publisher is not None:
            self._publisher.changed()

    def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return self._trainer.probe_logprobs(sequences)

    def sleep(self) -> int:
        return self._trainer.sleep()

    def begin_save(self, directory: str) -> None:
        self._trainer.begin_save(Path(directory))

    def finish_save(self) -> None:
        self._trainer.finish_save()

    def load(self, directory: str) -> None:
        self._weights_change()
        self._trainer.load(Path(directory))

    def export(self, directory: str) -> None:
        self._trainer.export(Path(directory))

    def close(self) -> None:
        if self._publisher is not None:
            self._publisher.close()
        self._trainer.close()


async def _nobody_leaves() -> None:
    """Whoever needs the devices of a group has them."""


class TrainedGroup:
    """The driver's end of the ranks; ``store`` holds what they are given.

    ``comes`` is awaited before a verb that needs the ranks' devices; it has others leave them.
    """

    def __init__(self, ranks: Ranks, *, store: HoldsBatches) -> None:
        self._ranks = ranks
        self._store = store
        self.comes: Callable[[], Awaitable[None]] = _nobody_leaves

    async def setup(self) -> int:
        """Build the engines; returns the number of parameters."""
        return await self._ranks.setup()

    @property
    def source(self) -> "WeightSource":
        """The sending end of the weight bus, of a group that can build a sender."""
        return WeightSource(self._ranks)

    async def restart(self) -> None:
        """Replace every rank by a new one, with the weights the stage started from."""
        await self.comes()
        await self._ranks.restart()

    async def forward_backward(
        self, packed: Packed, objective: Objective, *, temperature: float = 1.0
    ) -> dict[str, float]:
        """Accumulate gradients of one optimizer batch; returns its global metrics.

        Args:
            packed: carries the objective's columns; its weights hold global denominators.
            objective: what is minimised.
            temperature: of the sampler; divides the logits of a policy.
        """
        await self.comes()
        parts = self._store.parts(packed)
        tallies = await self._ranks.each("forward_backward", parts, objective, temperature)
        return merge(tallies).metrics()

    async def measure(self, packed: Packed, objective: Objective) -> Tally:
        """Evaluate an objective on data that is not learned from; returns the sums of all ranks."""
        await self.comes()
        return merge(await self._ranks.each("measure", self._store.parts(packed), objective))

    async def score(
        self, packed: Packed, *, temperature: float = 1.0, adapter: bool = True
    ) -> list[list[np.ndarray]]:
        """Score every micro-batch's scored tokens: log-probs of a policy, values of a critic.

        Without ``adapter`` the base answers alone.

        Returns:
            One float32 (R,) array per micro-batch, indexed like its ``batches``, for
            ``Packed.by_item``.
        """
        await self.comes()
        return await self._ranks.each("score", self._store.parts(packed), temperature, adapter)

    async def optim_step(self, step_id: int) -> dict[str, float]:
        """Apply the accumulated gradient once; see ``DeepSpeedTrainer.optim_step``."""
        await self.comes()
        return (await self._ranks.all("optim_step", step_id))[0]

    async def sleep(self) -> int:
        """Leave memory until the next verb; returns the bytes of all ranks together."""
        return sum(await self._ranks.all("sleep"))

    async def begin_save(self, directory: Path) -> None:
        """Copy the state to host memory; the ranks then write it behind their other work."""
        await self.comes()
        await self._ranks.all("begin_save", str(directory))

    async def finish_save(self) -> None:
        """Wait until every rank has written its files.

        Raises:
            CheckpointWriteError: the disk refused; the next ``begin_save`` may succeed.
        """
        await self._ranks.all("finish_save")

    async def load(self, directory: Path) -> None:
        """Restore what was saved; see ``DeepSpeedTrainer.load``."""
        await self.comes()
        await self._ranks.all("load", str(directory))

    async def export(self, directory: Path) -> None:
        """Write a Hugging Face model directory; see ``DeepSpeedTrainer.export``."""
        await self.comes()
        await self._ranks.all("export", str(directory))

    async def close(self) -> None:
        await self._ranks.all("close", timeout_s=30)


class WeightSource:
    """Pushes a group's weights: the ``weights.bus.Publisher`` of its ranks.

    The bus ends what takes too long, but for ``announce_again``, which moves no bytes.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._live = False  # whether what was announced last is gathered while it is sent

    async def stage(self, version: int, *, seats: Sequence[Seat]) -> Locator:
        # Rank 0 knows where it sits; the others have to know whether they gather now or later.
        written: bool = await self._publish("stages", seats=seats)
        answers = await self._ranks.all(
            "publish", "stage", version, timeout_s=CALL_S, seats=seats, written=written
        )
        locator = joined(answers, seats=seats)
        assert locator is not None, "the first rank sends"
        self._live = locator.live
        return locator

    async def announce_again(self, *, seats: Sequence[Seat]) -> Locator | None:
        answers = await self._ranks.all("publish", "announce_again", seats=seats)
        locator = joined(answers, seats=seats)
        if locator is not None:
            self._live = locator.live
        return locator

    async def send(self) -> float | None:
        merge_error: float | None = await self._publish("send", live=self._live)
        return merge_error

    async def release(self, version: int) -> None:
        await self._publish("release", version)

    async def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return (await self._ranks.all("probe_logprobs", sequences, timeout_s=CALL_S))[0]

    async def _publish(self, verb: str, *args: Any, **options: Any) -> Any:
        """Call every rank; returns the answer of rank 0, which alone holds a sender."""
        return (await self._ranks.all("publish", verb, *args, timeout_s=CALL_S, **options))[0]


def spawn_trained(
    session: Session,
    cfg: TrainerConfig,
    *,
    group: str,
    model: TrainedModel,
    seed: int,
    call_timeout_s: float,
    make_sender: MakeSender | None = None,
    optimizer: OptimizerConfig | None = None,
) -> TrainedGroup:
    """Create the rank actors; call ``setup`` on the group to build the engines.

    Args:
        session: the run's.
        cfg: the options of what is trained.
        group: names the ranks' slots: ``trainer`` or ``critic``.
        model: what is trained.
        seed: of the random generators.
        call_timeout_s: deadline of a verb.
        make_sender: builds the sending end of a weight bus; None: no weights are pushed.
        optimizer: None: AdamW.
    """
    ranks = spawn_ranks(
        session,
        TrainedRank,
        slots=rank_names(group, cfg.num_ranks),
        sharing=cfg.sequence_parallel_size,
        call_timeout_s=call_timeout_s,
        settings={
            "cfg": cfg,
            "model": model,
            "seed": seed,
            "make_sender": make_sender,
            "optimizer": optimizer,
        },
    )
    return TrainedGroup(ranks, store=session.batches)
