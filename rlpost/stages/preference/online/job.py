"""Online preference learning: one step.

Owns the order sample, pair, compare, update, push. Refuses to own when steps happen
(stages/loop.py), what is sampled (stages/sampling/), the rule of pairs (algorithms/preference/) and
the losses. Invariants: the first push precedes step 1; a prompt is consumed in exactly one step;
a step without any pair ends the run with everything before it saved.
"""

from dataclasses import dataclass
from typing import Any

from rlpost.algorithms.preference import PreferenceObjective
from rlpost.cluster.trained import TrainedGroup
from rlpost.data.dataset import DataConfig
from rlpost.errors import NothingToPrefer
from rlpost.stages.export import export_model
from rlpost.stages.preference.batch import ResponsePacker
from rlpost.stages.preference.online.pairs import paired_examples
from rlpost.stages.preference.reference import Reference
from rlpost.stages.roles import sleep_all
from rlpost.stages.run import Run
from rlpost.stages.sampling.parts import SamplingParts
from rlpost.stages.step_record import StepRecord
from rlpost.tracking.tracker import Phase
from rlpost.training.packing.pack import Packed
from rlpost.types import Group


@dataclass(kw_only=True)
class OnlineJob:
    """The verbs of the loop (``stages.loop.Job``)."""

    cfg: Any  # PreferenceConfig
    data: DataConfig
    sampling: SamplingParts
    policy: TrainedGroup
    reference: Reference | None  # None for a loss that compares with none
    objective: PreferenceObjective
    packer: ResponsePacker

    @property
    def run(self) -> Run:
        return self.sampling.run

    async def begin(self, record: StepRecord) -> None:
        """Push what the trainer holds now: at a start, or after a return to a checkpoint."""
        await self.sampling.push(record)
        self.sampling.committed(step=self.run.step)

    async def step(self, record: StepRecord) -> None:
        """Sample, pair, compare with the reference, update, push.

        Raises:
            VerifiersFailing: too many responses could not be judged.
            NothingToPrefer: no group of the step has a pair.
        """
        sampling, number = self.sampling, self.run.step + 1
        sampling.learning.check()
        if self.cfg.cluster.offload_idle:
            await self.policy.sleep()
        batch = await sampling.next_batch(record)
        if self.cfg.cluster.offload_idle and not self.cfg.rl.runs_ahead:
            await sleep_all(sampling.rewards)
        if not batch.groups:
            sampling.finish(batch, record, step=number, updated=False)
            sampling.learning.check()
            raise NothingToPrefer(self._why_nothing(len(batch.sampled)))
        packed = await self._packed(batch.groups, record)
        record.add({"preference/pairs": float(len(batch.groups)), **packed.sizes()})
        self.run.tracker.phase(Phase.training)
        with record.timed("update_actor"):
            record.add(await self.policy.forward_backward(packed, self.objective))
            record.add(await self.policy.optim_step(number))
        self.run.progress(f"update {number}")
        sampling.producer.trained(step=number)
        await sampling.push(record)
        sampling.committed(step=number)
        sampling.finish(batch, record, step=number, updated=True)

    async def _packed(self, groups: tuple[Group, ...], record: StepRecord) -> Packed:
        examples = paired_examples(groups, seed=self.cfg.seed)
        packed = self.packer(examples)
        if self.reference is None:
            return packed
        self.run.tracker.phase(Phase.scoring)
        with record.timed("ref"):
            found = await self.reference.logprobs(packed, examples)
        return packed.attach(ref_logprobs_R=found)

    def _why_nothing(self, tried: int) -> str:
        return (
            f"pairing: in none of {tried} groups did the rewards of the responses differ, so that "
            "nothing is preferred (a pair is a response of the highest reward of a group against "
            f"one of the lowest; pairing.max_rounds={self.cfg.pairing.max_rounds}); raise "
            f"rollout.group_size={self.cfg.rollout.group_size} or rollout.temperature, use a "
            "verifier with more values than 0 and 1 or a reward model, or other prompts"
        )

    async def evaluate(self, record: StepRecord) -> bool:
        """Rewards on held-out prompts, of the weights the generators serve."""
        if self.sampling.heldout_set is not None and self.cfg.cluster.offload_idle:
            await self.policy.sleep()
        return await self.sampling.evaluate(record)

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
