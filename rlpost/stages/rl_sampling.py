"""Which groups one step trains on, and which answers an evaluation gets.

Owns drawing prompts, dynamic sampling and the accounting of prompts that end here. Refuses
to own generation and verification (rollout/collector.py) and the rules (algorithms/).
Invariant: a drawn prompt is dropped here, or handed on to be consumed by the step.
"""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rlpost.algorithms.shaping import groups_to_draw, keep_groups
from rlpost.data.cursor import prompt_uid
from rlpost.errors import RunFailed
from rlpost.rollout.collector import Collection
from rlpost.stages.rl_batch import raw_statistics
from rlpost.stages.rl_parts import RLParts
from rlpost.stages.step_record import StepRecord
from rlpost.tracking.tracker import Phase
from rlpost.types import Group, Prompt, SamplingConfig

log = logging.getLogger(__name__)

T = TypeVar("T")


class Interrupted(Exception):
    """The person asked to stop; raised only between whole units of work."""


@dataclass(frozen=True)
class Sampler:
    """Draws, samples and verifies for the loop."""

    parts: RLParts
    stop: asyncio.Event

    async def collect(self, record: StepRecord) -> tuple[list[Group], list[Group]]:
        """Sample and verify groups until there are enough, or the rounds are used up.

        Without dynamic sampling one round is enough and every group is kept.

        Returns:
            All groups, and those to train on; prompts of the others are dropped.
        """
        cfg, ledger = self.parts.cfg, self.parts.ledger
        sampling, wanted = cfg.algorithm.dynamic_sampling, cfg.rollout.prompts_per_step
        sampled: list[Group] = []
        kept: list[Group] = []
        rounds, num = 0, wanted
        while num:
            groups = await self._sample(self._draw(num, record), record)
            sampled += groups
            if sampling.enabled:
                useful = keep_groups(raw_statistics(groups, cfg)).tolist()
                for group, keep in zip(groups, useful, strict=True):
                    if not keep:
                        ledger.drop(group.prompt.uid, "no_gradient")
                groups = [group for group, keep in zip(groups, useful, strict=True) if keep]
            kept += groups
            rounds += 1
            num = groups_to_draw(
                num_kept=len(kept), num_wanted=wanted, rounds_done=rounds, config=sampling
            )
        if not sampled:
            raise RunFailed("no prompt of the step could be generated; run.log has the reasons")
        record.add(raw_statistics(sampled, cfg).metrics() | {"group/rounds": float(rounds)})
        if self.parts.rewards is not None:
            record.add(self.parts.rewards.absorb())
        return sampled, kept

    def _draw(self, num: int, record: StepRecord) -> list[Prompt]:
        """Take the next prompts and take responsibility for them."""
        parts = self.parts
        rows = parts.cursor.take(num)
        for epoch, row in rows:
            parts.ledger.admit(prompt_uid(epoch, row))
        record.add({"training/epoch": float(rows[-1][0])})
        return [parts.train_set.prompt(epoch, row) for epoch, row in rows]

    async def _sample(self, prompts: Sequence[Prompt], record: StepRecord) -> list[Group]:
        """Sample and verify a group per prompt; prompts that failed for good are dropped."""
        rollout = self.parts.cfg.rollout
        collection = await self._collection(prompts, rollout.group_size, rollout.sampling, record)
        for uid, reason in collection.failed.items():
            log.warning("prompt %s is dropped: %s", uid, reason)
            self.parts.ledger.drop(uid, "infrastructure")
        return list(collection.groups)

    async def _collection(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        sampling: SamplingConfig,
        record: StepRecord,
    ) -> Collection:
        self.parts.tracker.phase(Phase.generating)
        collection = await until_stopped(
            self.stop,
            self.parts.collector.collect(
                prompts, num_samples=num_samples, sampling=sampling, seed=self.parts.cfg.seed
            ),
        )
        record.add_time("gen", collection.generation_s)
        record.add_time("reward", collection.verification_s)
        return collection

    async def greedy_rewards(
        self, groups: Sequence[Group], record: StepRecord
    ) -> list[float | None] | None:
        """Return the reward of each prompt's greedy response, if the estimator asks for it."""
        if not self.parts.cfg.algorithm.advantage.needs_greedy or not groups:
            return None
        sampling = SamplingConfig(max_tokens=self.parts.cfg.rollout.max_tokens, temperature=0.0)
        collection = await self._collection([g.prompt for g in groups], 1, sampling, record)
        rewards = {g.prompt.uid: g.rewards[0] for g in collection.groups}
        return [rewards.get(group.prompt.uid) for group in groups]

    async def heldout(self) -> Collection:
        """Sample and verify the held-out prompts; their seeds are the same at every step."""
        parts = self.parts
        assert parts.heldout_set is not None
        parts.tracker.phase(Phase.evaluating)
        prompts = [parts.heldout_set.prompt(0, row) for row in range(len(parts.heldout_set))]
        return await until_stopped(
            self.stop,
            parts.examiner.collect(
                prompts,
                num_samples=parts.cfg.evaluation.samples,
                sampling=parts.evaluation_sampling,
                seed=parts.cfg.seed,
            ),
        )


async def until_stopped(stop: asyncio.Event, work: Awaitable[T]) -> T:
    """Await ``work``, which may be thrown away when the person asks to stop.

    Raises:
        Interrupted: they did.
    """
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Interrupted
        return task.result()
    finally:
        stopped.cancel()
        task.cancel()
