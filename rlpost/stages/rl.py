"""Reinforcement learning: the loop.

Owns the order of things in one step and what a step's numbers are. Refuses to own how the
parts come to be (rl_parts.py), where files lie (run_directory.py) and every algorithm.
Invariants: the first push precedes step 1; a prompt is consumed in exactly one step; what
is checkpointed is the state after a whole step, never the middle of one.
"""

import asyncio
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from rlpost.algorithms.advantages import (
    estimators,
    group_statistics,
    leave_out,
    rewards_matrix,
)
from rlpost.checkpoint.space import CheckpointWriteError
from rlpost.checkpoint.state import read_json, write_json
from rlpost.data.cursor import prompt_uid
from rlpost.errors import RunFailed
from rlpost.stages import step_metrics
from rlpost.stages.rl_parts import RLParts
from rlpost.tracking.sample import records_of
from rlpost.tracking.tracker import Phase, RunStatus
from rlpost.training.packing import PackedBatches, attach_ref_logprobs, pack, unpack
from rlpost.types import Group, Prompt

T = TypeVar("T")


class Interrupted(Exception):
    """The person asked to stop; raised only between whole units of work."""


async def run_loop(parts: RLParts, stop: asyncio.Event) -> RunStatus:
    """Train until ``trainer.steps``, saving on the way; see the module's invariants.

    Raises:
        RunFailed: the run cannot go on.
    """
    run = RLRun(parts, stop)
    await run.resume()
    try:
        await run.push_weights()
        while True:
            if run.evaluation_due():
                await run.evaluate()
            if run.due(parts.cfg.checkpoint.every) and run.step > 0:
                await run.save()
            if run.step >= parts.cfg.trainer.steps:
                break
            run.begin_step()
            groups = await run.collect(run.draw())
            await run.train(run.pack(groups), groups)
            await run.push_weights()
            run.finish_step(groups)
    except Interrupted:
        await run.save()
        return RunStatus.interrupted
    await run.export()
    return RunStatus.done


@dataclass
class RLRun:
    """Progress of one run and the verbs of its loop."""

    parts: RLParts
    stop: asyncio.Event
    step: int = 0  # completed steps
    saved_step: int = -1
    evaluated_step: int = -1
    metrics: dict[str, float] = field(default_factory=dict)  # of the step in progress
    _started: float = 0.0
    _snapshot: dict[str, Any] = field(default_factory=dict)  # driver state after `step`
    _push_due: bool = True  # the generators lack the trainer's weights

    async def resume(self) -> None:
        """Take up the state of the checkpoint that set-up chose, if any."""
        parts = self.parts
        if parts.resume_from is not None:
            state = read_json(parts.resume_from / "driver.json")
            self.step = self.saved_step = state["step"]
            self.evaluated_step = state["evaluated_step"]
            parts.cursor.load_state_dict(state["cursor"])
            parts.ledger.load_state_dict(state["ledger"])
            parts.bus.last_version = state["version"]
            await parts.trainer.load(parts.resume_from / "trainer")
        self._take_snapshot()

    def begin_step(self) -> None:
        self.metrics = {}
        self._started = time.perf_counter()

    def draw(self) -> list[Prompt]:
        """Take the next prompts and take responsibility for them."""
        parts = self.parts
        rows = parts.cursor.take(parts.cfg.rollout.prompts_per_step)
        for epoch, row in rows:
            parts.ledger.admit(prompt_uid(epoch, row))
        self.metrics["training/epoch"] = float(rows[-1][0])
        return [parts.train_set.prompt(epoch, row) for epoch, row in rows]

    async def collect(self, prompts: Sequence[Prompt]) -> tuple[Group, ...]:
        """Sample and verify a group per prompt; prompts that failed for good are dropped."""
        parts, rollout = self.parts, self.parts.cfg.rollout
        parts.tracker.phase(Phase.generating)
        collection = await self._until_stopped(
            parts.collector.collect(
                prompts,
                num_samples=rollout.group_size,
                sampling=rollout.sampling,
                seed=parts.cfg.seed,
            )
        )
        for uid in collection.failed:
            parts.ledger.drop(uid, "infrastructure")
        if not collection.groups:
            raise RunFailed(
                f"no prompt could be generated: {next(iter(collection.failed.values()))}"
            )
        self.metrics["timing_s/gen"] = collection.generation_s
        self.metrics["timing_s/reward"] = collection.verification_s
        return collection.groups

    async def train(self, batches: PackedBatches, groups: Sequence[Group]) -> None:
        """One optimizer step; none when no group carries a gradient. Consumes the prompts."""
        parts, cfg = self.parts, self.parts.cfg
        parts.tracker.phase(Phase.training)
        with self._timed("update_actor"):
            if any(batches):
                if parts.reference is not None:
                    batches = await self._with_reference(batches)
                self.metrics |= await parts.trainer.forward_backward(
                    batches, objective=parts.objective, temperature=cfg.rollout.temperature
                )
                self.metrics |= await parts.trainer.optim_step(self.step + 1)
                self._push_due = True
        self.metrics["training/skipped"] = float(not any(batches))
        for group in groups:
            parts.ledger.consume(group.prompt.uid, self.step + 1)

    def pack(self, groups: Sequence[Group]) -> PackedBatches:
        """Advantages, then micro-batches of the groups that carry a gradient."""
        cfg = self.parts.cfg
        rewards_PG = rewards_matrix([g.rewards for g in groups])
        advantage = cfg.algorithm.advantage
        advantages_PG = estimators.get(advantage.kind).target(rewards_PG, advantage)
        statistics = group_statistics(rewards_PG)
        self.metrics |= statistics.metrics() | step_metrics.advantages(advantages_PG)
        if not self.parts.objective.needs_reference:  # a KL term gives every group a gradient
            advantages_PG = leave_out(advantages_PG, statistics.zero_variance_P)
        return pack(
            groups,
            advantages_PG.numpy(),
            num_ranks=cfg.trainer.num_ranks,
            max_tokens=cfg.trainer.max_tokens_per_micro_batch,
            reduction=cfg.algorithm.reduction,
            share_prompts=cfg.trainer.share_prompts,
        )

    async def _with_reference(self, batches: PackedBatches) -> PackedBatches:
        assert self.parts.reference is not None
        with self._timed("ref"):
            values: list[list[np.ndarray]] = await self.parts.reference.logprobs(
                batches, temperature=self.parts.cfg.rollout.temperature
            )
        return attach_ref_logprobs(batches, unpack(batches, values))

    async def push_weights(self) -> None:
        """Bring the generators to the trainer's weights, unless they have them."""
        if not self._push_due:
            return
        self.parts.tracker.phase(Phase.pushing_weights)
        with self._timed("update_weights"):
            report = await self.parts.bus.publish()
        self.metrics |= report.metrics()
        self._push_due = False

    def finish_step(self, groups: Sequence[Group]) -> None:
        """Count the step and complete its record."""
        self.step += 1
        elapsed = time.perf_counter() - self._started
        self.metrics |= step_metrics.rollout(groups)
        self.metrics |= step_metrics.performance(self.metrics, elapsed)
        self.parts.tracker.log_samples(self.step, records_of(groups))
        self._take_snapshot()
        self._report()

    async def evaluate(self) -> None:
        """Held-out accuracy of the weights the generators serve; seeds do not change."""
        parts = self.parts
        if parts.heldout_set is None:
            return
        parts.tracker.phase(Phase.evaluating)
        evaluation = parts.cfg.evaluation
        with self._timed("testing"):
            collection = await self._until_stopped(
                parts.collector.collect(
                    [parts.heldout_set.prompt(0, row) for row in range(len(parts.heldout_set))],
                    num_samples=evaluation.samples,
                    sampling=parts.evaluation_sampling,
                    seed=parts.cfg.seed,
                )
            )
        self.metrics |= step_metrics.heldout(
            collection, dataset=parts.heldout_set.name, samples=evaluation.samples
        )
        self.evaluated_step = self.step
        self._report()

    def _report(self) -> None:
        """Hand the step's record to the trackers."""
        self.metrics["training/global_step"] = float(self.step)
        self.parts.tracker.log(self.step, self.metrics)
        self.metrics = {}

    def evaluation_due(self) -> bool:
        """Whether the weights of this step are to be evaluated and were not yet."""
        if self.evaluated_step == self.step:
            return False
        return self.step == 0 or self.due(self.parts.cfg.evaluation.every)

    def due(self, every: int) -> bool:
        """Whether something that happens every so many steps, and at the end, is due."""
        last = self.step == self.parts.cfg.trainer.steps
        return last or (every > 0 and self.step % every == 0)

    async def save(self) -> None:
        """Checkpoint the state after the last whole step; a full disk costs a warning."""
        parts = self.parts
        if self.saved_step == self.step:
            return
        parts.tracker.phase(Phase.checkpointing)
        try:
            with parts.store.saving(step=self.step, config_hash=parts.config_hash) as scratch:
                (scratch / "trainer").mkdir()
                await parts.trainer.save(scratch / "trainer")
                state = {**self._snapshot, "evaluated_step": self.evaluated_step}
                write_json(scratch / "driver.json", state)
        except CheckpointWriteError as error:
            parts.warn(f"step {self.step} was not saved, the run goes on: {error}")
            return
        self.saved_step = self.step

    async def export(self) -> None:
        """Write the policy in Hugging Face layout."""
        self.parts.tracker.phase(Phase.checkpointing, "exporting the model")
        await self.parts.export(self.step)

    def _take_snapshot(self) -> None:
        parts = self.parts
        self._snapshot = {
            "step": self.step,
            "version": parts.bus.last_version,
            "cursor": parts.cursor.state_dict(),
            "ledger": parts.ledger.state_dict(),
        }

    async def _until_stopped(self, work: Awaitable[T]) -> T:
        """Await ``work``, which may be thrown away when the person asks to stop."""
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self.stop.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Interrupted
            return task.result()
        finally:
            stopped.cancel()
            task.cancel()

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.metrics[f"timing_s/{name}"] = time.perf_counter() - start
