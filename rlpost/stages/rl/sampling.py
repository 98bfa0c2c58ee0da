"""Which groups one step trains on, and which answers an evaluation gets.

Owns what the loop asks of producer and collectors, and what it reports of it. Refuses to own
generation and verification (rollout/) and the rules (algorithms/, control/).
"""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rlpost.data.cursor import parse_uid
from rlpost.errors import RunFailed
from rlpost.rollout.producer import Batch
from rlpost.stages.rl import step_metrics
from rlpost.stages.rl.batch import raw_statistics
from rlpost.stages.rl.parts import RLParts
from rlpost.stages.sampling.examiner import Examination
from rlpost.stages.sampling.serving import wait_for_generators
from rlpost.stages.step_record import StepRecord
from rlpost.tracking.tracker import Phase
from rlpost.types import Group

T = TypeVar("T")


@dataclass(frozen=True)
class Sampler:
    """Samples and verifies for the loop."""

    parts: RLParts

    async def next_batch(self, record: StepRecord) -> Batch:
        """Wait for what the next step trains on.

        Raises:
            Interrupted: the person asked to stop.
            RunFailed: nothing could be generated.
        """
        parts = self.parts
        parts.run.tracker.phase(Phase.generating)
        with record.timed("wait_batch"):
            batch = await self._answered(parts.producer.next_batch())
        if not batch.sampled:
            raise RunFailed("no prompt of the step could be generated; run.log has the reasons")
        record.add_time("gen", batch.generation_s)
        record.add_time("reward", batch.verification_s)
        record.add_time("generators_idle", batch.idle_s)
        record.add(raw_statistics(batch.sampled, parts.cfg).metrics())
        record.add(step_metrics.off_policy(batch))
        epoch, _ = parse_uid(batch.sampled[-1].prompt.uid)
        record.add({"training/epoch": float(epoch)})
        if parts.rewards is not None:
            record.add(parts.rewards.absorb())
        return batch

    async def greedy_rewards(
        self, groups: Sequence[Group], record: StepRecord
    ) -> list[float | None] | None:
        """Return the reward of each prompt's greedy response, if the estimator asks for it."""
        parts = self.parts
        if not parts.cfg.algorithm.advantage.needs_greedy or not groups:
            return None
        sampling = replace(parts.cfg.rollout.sampling, temperature=0.0)
        with record.timed("greedy"):
            collection = await self._answered(
                parts.collector.collect(
                    [group.prompt for group in groups],
                    num_samples=1,
                    sampling=sampling,
                    seed=parts.cfg.seed,
                )
            )
        rewards = {g.prompt.uid: g.rewards[0] for g in collection.groups}
        return [rewards.get(group.prompt.uid) for group in groups]

    async def heldout(self) -> Examination:
        """Sample and verify the held-out prompts; their seeds are the same at every step."""
        parts = self.parts
        assert parts.heldout_set is not None
        parts.run.tracker.phase(Phase.evaluating)
        prompts = [parts.heldout_set.prompt(0, row) for row in range(len(parts.heldout_set))]
        return await self._answered(parts.examiner.examine(prompts))

    async def _answered(self, work: Awaitable[T]) -> T:
        return await wait_for_generators(work, bus=self.parts.bus, run=self.parts.run)
