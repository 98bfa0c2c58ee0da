"""Reinforcement learning: the loop.

Owns the order of things in one step, updates and checkpoints. Refuses to own how the parts
come to be (rl_parts.py), which prompts are drawn (rl_sampling.py), the batch (rl_batch.py),
where files lie (run_directory.py) and every algorithm.
Invariants: the first push precedes step 1; a prompt is consumed in exactly one step; what
is checkpointed is the state after a whole step, never the middle of one.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlpost.algorithms.selection import select
from rlpost.checkpoint.space import CheckpointWriteError
from rlpost.checkpoint.state import read_json, write_json
from rlpost.config.schema import Anchor
from rlpost.stages import step_metrics
from rlpost.stages.kept_dataset import write_kept
from rlpost.stages.rl_batch import Scores, estimate, mini_batches, scoring_batches
from rlpost.stages.rl_parts import RLParts
from rlpost.stages.rl_sampling import Interrupted, Sampler
from rlpost.stages.step_record import StepRecord
from rlpost.tracking.sample import records_of
from rlpost.tracking.tracker import Phase, RunStatus
from rlpost.training.packing import PackedBatches, unpack
from rlpost.types import Group


async def run_loop(parts: RLParts, stop: asyncio.Event) -> RunStatus:
    """Train until ``trainer.steps``, saving on the way; see the module's invariants.

    Raises:
        RunFailed: the run cannot go on.
    """
    run = RLRun(parts, Sampler(parts, stop))
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
            groups = await run.collect()
            scores = await run.score(groups)
            await run.train(run.prepare(groups, scores), groups)
            await run.push_weights()
            run.finish_step()
    except Interrupted:
        await run.save()
        return RunStatus.interrupted
    await run.export()
    return RunStatus.done


@dataclass
class RLRun:
    """Progress of one run and the verbs of its loop."""

    parts: RLParts
    sampler: Sampler
    step: int = 0  # completed steps
    saved_step: int = -1
    evaluated_step: int = -1
    record: StepRecord = field(default_factory=StepRecord)
    sampled: list[Group] = field(default_factory=list)  # all that the step in progress drew
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
            parts.kl_controller.load_state_dict(state["kl_controller"])
            if parts.rewards is not None:
                parts.rewards.load_state_dict(state["rewards"])
            await parts.trainer.load(parts.resume_from / "trainer")
            if parts.critic is not None:
                await parts.critic.load(parts.resume_from / "critic")
        self._take_snapshot()

    def begin_step(self) -> None:
        self.record.take()
        self._started = time.perf_counter()

    async def collect(self) -> list[Group]:
        """The groups to train on; see ``Sampler``."""
        self.sampled, kept = await self.sampler.collect(self.record)
        return self._select(kept)

    def _select(self, groups: list[Group]) -> list[Group]:
        """Leave only the responses that ``selection`` keeps, and write them as a dataset."""
        parts, rule = self.parts, self.parts.cfg.selection
        if rule.keeps_everything:
            return groups
        kept = []
        for group in groups:
            ids = [t.response_ids for t in group.trajectories]
            chosen = select(group.rewards, response_ids=ids, config=rule)
            kept.append(replace(group, trajectories=tuple(group.trajectories[i] for i in chosen)))
        num = write_kept(parts.directory.dataset, self.step + 1, kept, model=parts.cfg.model.path)
        total = sum(len(group.trajectories) for group in groups)
        self.record.add({"selection/kept": float(num), "selection/kept_frac": num / max(1, total)})
        return kept

    async def score(self, groups: Sequence[Group]) -> Scores:
        """Ask the other models what they think of the responses, those that the run needs."""
        parts, cfg = self.parts, self.parts.cfg
        temperature = cfg.rollout.temperature
        self.parts.tracker.phase(Phase.scoring)
        batches = scoring_batches(groups, cfg)
        ref = proximal = values = None
        if any(batches) and parts.reference is not None:
            with self.record.timed("ref"):
                answer = await parts.reference.logprobs(batches, temperature=temperature)
            ref = unpack(batches, answer)
        if any(batches) and cfg.algorithm.anchor is Anchor.proximal:
            with self.record.timed("old_log_prob"):
                answer = await parts.trainer.logprobs(batches, temperature=temperature)
            proximal = unpack(batches, answer)
        if any(batches) and parts.critic is not None:
            with self.record.timed("values"):
                values = unpack(batches, await parts.critic.values(batches))
        return Scores(
            ref_logprobs=ref,
            proximal_logprobs=proximal,
            values=values,
            greedy_rewards=await self.sampler.greedy_rewards(groups, self.record),
        )

    def prepare(self, groups: Sequence[Group], scores: Scores) -> list[PackedBatches]:
        """Advantages, then mini-batches of the groups that carry a gradient."""
        cfg, controller = self.parts.cfg, self.parts.kl_controller
        if not groups:
            return []
        with self.record.timed("adv"):
            advantages, rewards_PG = estimate(
                groups, scores, cfg=cfg, kl_coefficient=controller.coefficient
            )
            batches = mini_batches(groups, advantages, scores, cfg=cfg, seed=self.step)
        self.record.add(step_metrics.advantages(advantages))
        self.record.add(step_metrics.shaped_rewards(rewards_PG))
        if scores.ref_logprobs:
            kl = scores.kl(groups)
            self.record.add({"actor/ref_kl": kl, "actor/kl_coef": controller.coefficient})
            controller.update(kl, num_samples=sum(len(g.trajectories) for g in groups))
        return batches

    async def train(self, batches: Sequence[PackedBatches], groups: Sequence[Group]) -> None:
        """Every optimizer update of the step; none when no group carries a gradient.

        Consumes the prompts.
        """
        parts, cfg = self.parts, self.parts.cfg
        parts.tracker.phase(Phase.training)
        updates: list[dict[str, float]] = []
        first_id = self.step * cfg.algorithm.updates_per_step + 1
        for update, batch in enumerate(
            batch for _ in range(cfg.algorithm.epochs) for batch in batches
        ):
            updates.append(await self._update(batch, first_id + update))
        self.record.add(step_metrics.over_updates(updates))
        self.record.add({"training/skipped": float(not batches)})
        for group in groups:
            parts.ledger.consume(group.prompt.uid, self.step + 1)

    async def _update(self, batch: PackedBatches, update_id: int) -> dict[str, float]:
        """One optimizer step of the critic, if there is one, and of the policy."""
        parts, cfg = self.parts, self.parts.cfg
        metrics: dict[str, float] = {}
        if parts.critic is not None:
            start = time.perf_counter()
            metrics |= await parts.critic.forward_backward(batch, loss=cfg.critic.loss)
            metrics |= await parts.critic.optim_step(update_id)
            self.record.add_time("update_critic", time.perf_counter() - start)
            if self.step < cfg.critic.warmup_only_steps:
                return metrics
        alone = cfg.critic.warmup_only_steps * cfg.algorithm.updates_per_step
        start = time.perf_counter()
        metrics |= await parts.trainer.forward_backward(
            batch, objective=parts.objective, temperature=cfg.rollout.temperature
        )
        metrics |= await parts.trainer.optim_step(update_id - alone)
        self.record.add_time("update_actor", time.perf_counter() - start)
        self._push_due = True
        return metrics

    async def push_weights(self) -> None:
        """Bring the generators to the trainer's weights, unless they have them."""
        if not self._push_due:
            return
        self.parts.tracker.phase(Phase.pushing_weights)
        with self.record.timed("update_weights"):
            report = await self.parts.bus.publish()
        self.record.add(report.metrics())
        self._push_due = False

    def finish_step(self) -> None:
        """Count the step and complete its record."""
        self.step += 1
        elapsed = time.perf_counter() - self._started
        self.record.add(step_metrics.rollout(self.sampled))
        self.record.add(step_metrics.performance(self.record.metrics, elapsed))
        self.parts.tracker.log_samples(self.step, records_of(self.sampled))
        self._take_snapshot()
        self._report()

    async def evaluate(self) -> None:
        """Held-out accuracy of the weights the generators serve."""
        parts = self.parts
        if parts.heldout_set is None:
            return
        with self.record.timed("testing"):
            collection = await self.sampler.heldout()
        self.record.add(
            step_metrics.heldout(
                collection, dataset=parts.heldout_set.name, samples=parts.cfg.evaluation.samples
            )
        )
        self.evaluated_step = self.step
        self._report()

    def _report(self) -> None:
        """Hand the step's record to the trackers."""
        self.record.add({"training/global_step": float(self.step)})
        self.parts.tracker.log(self.step, self.record.take())

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
                if parts.critic is not None:
                    (scratch / "critic").mkdir()
                    await parts.critic.save(scratch / "critic")
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
            "kl_controller": parts.kl_controller.state_dict(),
            "rewards": None if parts.rewards is None else parts.rewards.state_dict(),
        }
