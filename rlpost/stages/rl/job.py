"""Reinforcement learning: one step.

Owns the order of things in one step and the updates. Refuses to own when steps happen
(stages/loop.py), how the parts come to be (boot.py), what is sampled (stages/sampling/), the batch
(batch.py), saving and going back (stages/progress.py) and every algorithm.
Invariants: the first push precedes step 1; a prompt is consumed in exactly one step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rlpost.algorithms.critic_loss import CriticObjective
from rlpost.algorithms.selection import select
from rlpost.config.schema import Anchor
from rlpost.rollout.producer import Batch
from rlpost.stages.performance import over_updates
from rlpost.stages.rl import step_metrics
from rlpost.stages.rl.batch import Scores, estimate, mini_batches, scoring_batch
from rlpost.stages.rl.parts import RLParts
from rlpost.stages.roles import CanSleep, sleep_all
from rlpost.stages.sampling.kept_dataset import write_kept
from rlpost.stages.step_record import StepRecord
from rlpost.tracking.tracker import Phase
from rlpost.training.packing.pack import Packed
from rlpost.types import Group


@dataclass
class RLJob:
    """The verbs of the loop (``stages.loop.Job``), and what a step is made of."""

    parts: RLParts
    record: StepRecord = field(default_factory=StepRecord)  # of the verb in progress
    _push_due: bool = True  # the generators lack the trainer's weights

    @property
    def steps_done(self) -> int:
        return self.parts.run.step

    async def begin(self, record: StepRecord) -> None:
        """Push what the trainer holds now: at a start, or after a return to a checkpoint."""
        self.record, self._push_due = record, True
        await self.push_weights(self.steps_done)

    async def step(self, record: StepRecord) -> None:
        """Collect, score, train, push.

        Raises:
            NothingLearned, VerifiersFailing: the steps before say that it makes no sense to go on.
        """
        self.parts.sampling.learning.check()
        self.record = record
        batch = await self.collect()
        scores = await self.score(batch.groups)
        await self.train(self.prepare(batch.groups, scores, oldest_version=batch.oldest_version))
        await self.push_weights(self.steps_done + 1)
        self.finish(batch)

    async def halt(self) -> None:
        """End generation for training, and catching up with a trainer that may be lost."""
        await self.parts.sampling.halt()

    async def collect(self) -> Batch:
        """What the step trains on; see ``Producer`` and ``selection``."""
        if not self.parts.sampling.bus.takes_turns:  # else the push that comes first does it
            await self._sleep(self.parts.trainer, self.parts.critic)
        batch = await self.parts.sampling.next_batch(self.record)
        return replace(batch, groups=tuple(self._select(batch.groups)))

    def _select(self, groups: Sequence[Group]) -> Sequence[Group]:
        """Leave only the responses that ``selection`` keeps, and write them as a dataset."""
        parts, rule = self.parts, self.parts.cfg.selection
        if rule.keeps_everything:
            return groups
        kept = []
        for group in groups:
            ids = [episode.response_ids for episode in group.episodes]
            chosen = select(group.rewards, response_ids=ids, config=rule)
            kept.append(replace(group, episodes=tuple(group.episodes[i] for i in chosen)))
        directory, step = parts.run.directory.dataset, self.steps_done + 1
        num = write_kept(directory, step, kept, model=parts.cfg.model.path)
        total = sum(len(group.episodes) for group in groups)
        self.record.add({"selection/kept": float(num), "selection/kept_frac": num / max(1, total)})
        return kept

    async def score(self, groups: Sequence[Group]) -> Scores:
        """Ask the other models what they think of the responses, those that the run needs."""
        parts, cfg = self.parts, self.parts.cfg
        temperature = cfg.rollout.temperature
        parts.run.tracker.phase(Phase.scoring)
        packed = scoring_batch(groups, cfg, work=parts.work)
        asks = not packed.is_empty
        greedy = await self._greedy_rewards(groups)
        if not cfg.rl.runs_ahead:  # else they go on judging
            await self._sleep(parts.sampling.rewards)
        await parts.sampling.rest()
        ref = proximal = values = None
        if asks and parts.reference is not None:
            with self.record.timed("ref"):
                answer = await parts.reference.score(packed, temperature=temperature)
            ref = packed.by_item(answer)
            await self._sleep(parts.reference)
        if asks and cfg.algorithm.anchor is Anchor.proximal:
            with self.record.timed("old_log_prob"):
                answer = await parts.trainer.score(packed, temperature=temperature)
            proximal = packed.by_item(answer)
        if asks and parts.critic is not None:
            with self.record.timed("values"):
                values = packed.by_item(await parts.critic.score(packed))
        return Scores(
            ref_logprobs=ref,
            proximal_logprobs=proximal,
            values=values,
            greedy_rewards=greedy,
        )

    async def _greedy_rewards(self, groups: Sequence[Group]) -> list[float | None] | None:
        """Return the reward of each prompt's greedy response, if the estimator asks for it."""
        parts, cfg = self.parts, self.parts.cfg
        if not cfg.algorithm.advantage.needs_greedy or not groups:
            return None
        prompts = [group.prompt for group in groups]
        sampling = replace(cfg.rollout.sampling, temperature=0.0)
        with self.record.timed("greedy"):
            collection = await parts.sampling.answered(
                parts.sampling.collector.collect(
                    prompts, num_samples=1, sampling=sampling, seed=cfg.seed
                )
            )
        rewards = {g.prompt.uid: g.rewards[0] for g in collection.groups}
        return [rewards.get(prompt.uid) for prompt in prompts]

    async def _sleep(self, *models: CanSleep | None) -> None:
        """Take models that are not needed for now out of memory, where that is wanted."""
        if not self.parts.cfg.cluster.offload_idle:
            return
        with self.record.timed("offload"):
            size_bytes = await sleep_all(*models)
        self.record.add_up("perf/offloaded_gb", size_bytes / 1e9)

    def prepare(
        self, groups: Sequence[Group], scores: Scores, *, oldest_version: int
    ) -> list[Packed]:
        """Advantages, then mini-batches of the groups that carry a gradient."""
        cfg, controller = self.parts.cfg, self.parts.kl_controller
        if not any(reward is not None for group in groups for reward in group.rewards):
            return []
        with self.record.timed("adv"):
            advantages, rewards_PG = estimate(
                groups, scores, cfg=cfg, kl_coefficient=controller.coefficient
            )
            batches = mini_batches(
                groups,
                advantages,
                scores,
                cfg=cfg,
                seed=self.steps_done,
                oldest_version=oldest_version,
                work=self.parts.work,
            )
        self.record.add(step_metrics.advantages(advantages))
        self.record.add(step_metrics.shaped_rewards(rewards_PG))
        if scores.values is not None:
            self.record.add(step_metrics.values_and_returns(scores.values, advantages))
        if scores.ref_logprobs:
            kl = scores.kl(groups)
            self.record.add({"actor/ref_kl": kl, "actor/kl_coef": controller.coefficient})
            if self.steps_done >= cfg.critic.warmup_only_steps:  # before, the policy stands still
                controller.update(kl, num_samples=sum(len(g.episodes) for g in groups))
        return batches

    async def train(self, batches: Sequence[Packed]) -> None:
        """Every optimizer update of the step; none when no group carries a gradient.

        Consumes the prompts of the step.
        """
        parts, cfg = self.parts, self.parts.cfg
        parts.run.tracker.phase(Phase.training)
        updates: list[dict[str, float]] = []
        first_id = self.steps_done * cfg.algorithm.updates_per_step + 1
        for update, batch in enumerate(
            batch for _ in range(cfg.algorithm.epochs) for batch in batches
        ):
            updates.append(await self._update(batch, first_id + update))
            parts.run.progress(f"update {first_id + update}")
        self.record.add(over_updates(updates))
        self.record.add({"training/skipped": float(not batches)})
        parts.sampling.producer.trained(step=self.steps_done + 1)

    async def _update(self, packed: Packed, update_id: int) -> dict[str, float]:
        """One optimizer step of the critic, if there is one, and of the policy."""
        parts, cfg = self.parts, self.parts.cfg
        metrics: dict[str, float] = {}
        if parts.critic is not None:
            with self.record.timed("update_critic"):
                metrics |= await parts.critic.forward_backward(
                    packed, CriticObjective(loss=cfg.critic.loss)
                )
                metrics |= await parts.critic.optim_step(update_id)
            if self.steps_done < cfg.critic.warmup_only_steps:
                return metrics
        alone = cfg.critic.warmup_only_steps * cfg.algorithm.updates_per_step
        with self.record.timed("update_actor"):
            metrics |= packed.sizes() | await parts.trainer.forward_backward(
                packed, parts.objective, temperature=cfg.rollout.temperature
            )
            metrics |= await parts.trainer.optim_step(update_id - alone)
        self._push_due = True
        return metrics

    async def push_weights(self, step: int) -> None:
        """Bring the generators to the weights after ``step``, and let generation go on."""
        parts = self.parts
        if self._push_due or parts.sampling.bus.resting:
            await parts.sampling.push(self.record, step=step)
            self._push_due = False
        else:
            parts.sampling.committed(step=step)

    def finish(self, batch: Batch) -> None:
        """Complete the step's record."""
        self.parts.sampling.finish(
            batch,
            self.record,
            step=self.steps_done + 1,
            updated=not self.record.metrics["training/skipped"],
        )

    async def evaluate(self, record: StepRecord) -> bool:
        """Rewards on held-out prompts, of the weights the generators serve."""
        return await self.parts.sampling.evaluate(record) is not None

    async def export(self) -> None:
        """Write the policy in Hugging Face layout.

        Raises:
            NothingLearned, VerifiersFailing: it is not worth it.
        """
        parts = self.parts
        parts.sampling.learning.check()
        parts.sampling.learning.end()
        if parts.sampling.learning.changed_nothing:
            parts.run.warn(
                "every response was right from the beginning, so no step updated the model: what "
                "is exported is what the run began with"
            )
        parts.run.tracker.phase(Phase.exporting, "the model")
        await parts.export()
