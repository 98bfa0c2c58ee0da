"""What a job drives that learns from its own samples: prompts, generators, judges and the bus.

Owns which of these belong to checkpoints, what a job asks of them and what it reports of that.
Refuses to own how they come to be (own_samples.py), what is learned of the samples, generation and
verification (rollout/) and every decision (control/).
Invariants: a wait for generators ends when the person interrupts the run; a prompt is consumed in
exactly one step.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from rlpost.algorithms.advantages import GroupStatistics
from rlpost.cluster.reward import RewardGroup
from rlpost.cluster.supervision import Supervisor
from rlpost.control.fleet import Fleet
from rlpost.control.learning import Learning, StepOutcome
from rlpost.control.ledger import Ledger
from rlpost.control.staleness import Staleness
from rlpost.data.cursor import PromptCursor, parse_uid
from rlpost.data.dataset import DataConfig, PromptDataset, heldout_source
from rlpost.data.sources.load import hub_id
from rlpost.errors import RunFailed
from rlpost.models.origin import DataUsed
from rlpost.rollout.collector import Collector
from rlpost.rollout.producer import Batch, Producer
from rlpost.stages.run import Run
from rlpost.stages.sampling import metrics
from rlpost.stages.sampling.examiner import Examiner, heldout_metrics
from rlpost.stages.sampling.generation_state import GenerationState
from rlpost.stages.sampling.serving import push_policy, wait_for_generators
from rlpost.stages.step_record import StepRecord
from rlpost.tracking.sample import records_of
from rlpost.tracking.tracker import Phase
from rlpost.types import Group, Prompt
from rlpost.verifiers.metrics import errors_of_unjudged
from rlpost.weights.bus import WeightBus

T = TypeVar("T")


@dataclass(kw_only=True)
class SamplingParts:
    """Example::

    batch = await sampling.next_batch(record)
    ...                                        # train on batch.groups
    await sampling.push(record, step=7)
    sampling.finish(batch, record, step=7, updated=True)
    """

    run: Run
    train_set: PromptDataset
    heldout_set: PromptDataset | None
    cursor: PromptCursor
    ledger: Ledger
    staleness: Staleness
    fleet: Fleet
    supervisor: Supervisor
    producer: Producer
    collector: Collector  # training: verifiers and reward models
    examiner: Examiner  # of held-out prompts: verifiers alone
    rewards: RewardGroup | None
    learning: Learning
    bus: WeightBus
    statistics: Callable[[Sequence[Group]], GroupStatistics]  # of raw rewards
    _step: int = field(default=0, init=False)  # after which the trainer's weights are
    _due: bool = field(default=False, init=False)  # they wait to be pushed

    def __post_init__(self) -> None:
        """Register what checkpoints hold beside the trained groups."""
        run = self.run
        for name in ("cursor", "ledger", "learning", "rewards"):
            if (kept := getattr(self, name)) is not None:
                run.keep(name, kept)
        generation = GenerationState(self.producer, self.staleness, self.bus, find=self.find_prompt)
        run.keep("generation", generation)
        run.guard = lambda: self.supervisor.run(self.bus)
        run.describes += [self.producer.describe, self.fleet.describe]
        run.describes.append(lambda: f"ledger: {self.ledger.counts}")

    def find_prompt(self, uid: str) -> Prompt:
        """Return the training prompt of a uid."""
        return self.train_set.prompt(*parse_uid(uid))

    def data_used(self, cfg: DataConfig) -> list[DataUsed]:
        """Return what the run reads, for the model card."""
        sources = {"train": (cfg.train, self.train_set)}
        if self.heldout_set is not None:
            sources["heldout"] = (heldout_source(cfg) or cfg.train, self.heldout_set)
        return [
            DataUsed(
                split=split,
                name=rows.name,
                source=source,
                num_rows=len(rows),
                fingerprint=rows.fingerprint,
                hub_id=hub_id(source),
            )
            for split, (source, rows) in sources.items()
        ]

    async def answered(self, work: Awaitable[T]) -> T:
        """Await what generators do; see ``wait_for_generators``."""
        return await wait_for_generators(work, bus=self.bus, run=self.run)

    async def next_batch(self, record: StepRecord) -> Batch:
        """Wait for what the next step trains on.

        Raises:
            Interrupted: the person asked to stop.
            RunFailed: nothing could be generated.
        """
        await self._bring_back(record)
        self.run.tracker.phase(Phase.generating)
        with record.timed("wait_batch"):
            batch = await self.answered(self.producer.next_batch())
        if not batch.sampled:
            raise RunFailed("no prompt of the step could be generated; run.log has the reasons")
        record.add_time("gen", batch.generation_s)
        record.add_time("reward", batch.verification_s)
        record.add_time("generators_idle", batch.idle_s)
        if answered := [group for group in batch.sampled if group.episodes]:
            record.add(self.statistics(answered).metrics())
        record.add(metrics.off_policy(batch))
        record.add({"training/epoch": self.cursor.passes})
        if self.rewards is not None:
            record.add(self.rewards.absorb())
        return batch

    async def push(self, record: StepRecord, *, step: int) -> None:
        """Have every generator serve what the trainer holds, the weights after ``step``.

        Where generators and trainer take turns they stay away until they are asked something, so
        that a checkpoint in between finds the trainer on its device. See ``push_policy``.
        """
        self._step, self._due = step, True
        if not self.bus.takes_turns:
            await self._bring_back(record)

    async def _bring_back(self, record: StepRecord) -> None:
        if self._due or self.bus.resting:
            await push_policy(self.bus, run=self.run, record=record)
            self._due = False
            self.committed(step=self._step)

    async def rest(self) -> None:
        """Have generators leave their devices to what trains, where both take turns."""
        await self.bus.rest()

    def committed(self, *, step: int) -> None:
        """What was pushed last are the weights after ``step``: let generation go on."""
        self.producer.committed(version=self.bus.last_version, step=step)

    def finish(self, batch: Batch, record: StepRecord, *, step: int, updated: bool) -> None:
        """Complete the record of ``step``."""
        self.learning.note(
            StepOutcome(
                updated=updated,
                solved=record.metrics.get("group/all_pass_frac") == 1,
                num_responses=sum(len(group.episodes) for group in batch.sampled),
                failures=errors_of_unjudged(batch.sampled),
            )
        )
        record.add(metrics.rollout(batch.sampled))
        self.run.tracker.log_samples(step, records_of(batch.sampled))

    async def evaluate(self, record: StepRecord) -> Sequence[Group] | None:
        """Sample and verify the held-out prompts; their seeds are the same at every step.

        Returns:
            The answers; None where there are no held-out prompts.
        """
        if self.heldout_set is None:
            return None
        await self._bring_back(record)
        self.run.tracker.phase(Phase.evaluating)
        prompts = [self.heldout_set.prompt(0, row) for row in range(len(self.heldout_set))]
        with record.timed("testing"):
            examination = await self.answered(self.examiner.examine(prompts))
        samples = self.examiner.samples
        if self.examiner.collector.is_judging:
            record.add(heldout_metrics(examination, dataset=self.heldout_set.name, samples=samples))
        return examination.groups

    async def halt(self) -> None:
        """End generation for training, and catching up with a trainer that may be lost."""
        await self.producer.stop()
        self.bus.forget_served()
