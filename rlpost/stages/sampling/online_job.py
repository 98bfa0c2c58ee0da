"""The Job of stages that learn from the policy's own samples by one update a step.

Owns the order sample, pack, update, push. Refuses to own when steps happen (stages/loop.py), what
is sampled (parts.py), what is made of the samples (a stage's ``Batches``) and objectives.
Invariants: the first push precedes step 1; a prompt is consumed in exactly one step; a step without
any group to learn from ends the run with everything before it saved.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlpost.algorithms.loss import Objective
from rlpost.cluster.trained import TrainedGroup
from rlpost.data.dataset import DataConfig
from rlpost.stages.export import export_model
from rlpost.stages.roles import sleep_all
from rlpost.stages.run import Run
from rlpost.stages.sampling.parts import SamplingParts
from rlpost.stages.step_record import StepRecord
from rlpost.tracking.tracker import Phase
from rlpost.training.packing.pack import Packed
from rlpost.types import Group


class Batches(Protocol):
    """What a stage makes of the groups of a step."""

    async def packed(self, groups: Sequence[Group], record: StepRecord) -> Packed:
        """Return the optimizer batch, with the columns that the objective reads."""

    def nothing(self, tried: int) -> Exception:
        """Return the error of a step that has no group to learn from, of ``tried``."""


@dataclass(kw_only=True)
class OnlineJob:
    """The verbs of the loop (``stages.loop.Job``)."""

    cfg: Any  # the stage's, such as PreferenceConfig
    data: DataConfig
    sampling: SamplingParts
    policy: TrainedGroup
    objective: Objective
    batches: Batches
    # metrics of answers to held-out prompts, beside their rewards
    heldout: Callable[[Sequence[Group]], Awaitable[Mapping[str, float]]] | None = None

    @property
    def run(self) -> Run:
        return self.sampling.run

    async def begin(self, record: StepRecord) -> None:
        """Push what the trainer holds now: at a start, or after a return to a checkpoint."""
        await self.sampling.push(record, step=self.run.step)

    async def step(self, record: StepRecord) -> None:
        """Sample, pack, update, push.

        Raises:
            VerifiersFailing: too many responses could not be judged.
            RunFailed: no group of the step can be learned from.
        """
        sampling, number = self.sampling, self.run.step + 1
        sampling.learning.check()
        if self.cfg.cluster.offload_idle and not sampling.bus.takes_turns:
            await self.policy.sleep()
        batch = await sampling.next_batch(record)
        await sampling.rest()
        if self.cfg.cluster.offload_idle and not self.cfg.rl.runs_ahead:
            await sleep_all(sampling.rewards)
        if not batch.groups:
            sampling.finish(batch, record, step=number, updated=False)
            sampling.learning.check()
            raise self.batches.nothing(len(batch.sampled))
        packed = await self.batches.packed(batch.groups, record)
        record.add(packed.sizes())
        self.run.tracker.phase(Phase.training)
        with record.timed("update_actor"):
            record.add(await self.policy.forward_backward(packed, self.objective))
            record.add(await self.policy.optim_step(number))
        self.run.progress(f"update {number}")
        sampling.producer.trained(step=number)
        await sampling.push(record, step=number)
        sampling.finish(batch, record, step=number, updated=True)

    async def evaluate(self, record: StepRecord) -> bool:
        """Measure answers to held-out prompts, of the weights the generators serve."""
        idle = self.cfg.cluster.offload_idle and not self.sampling.bus.takes_turns
        if self.sampling.heldout_set is not None and idle:
            await self.policy.sleep()
        groups = await self.sampling.evaluate(record)
        if groups and self.heldout is not None:
            await self.sampling.rest()  # the models that score have left for the generators
            with record.timed("testing"):
                record.add(await self.heldout(groups))
        return groups is not None

    async def export(self) -> None:
        """Write the policy in Hugging Face layout."""
        self.run.tracker.phase(Phase.exporting, "the model")
        await export_model(
            self.run,
            self.policy,
            base=self.cfg.model.path,
            stage=self.run.stage,
            data=self.sampling.data_used(self.data),
            system_prompt=self.data.system_prompt,
        )

    async def halt(self) -> None:
        """End generation for training; see ``SamplingParts``."""
        await self.sampling.halt()
