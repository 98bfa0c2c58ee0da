"""Online preference learning: what a step makes of judged groups.

Owns the pairing and the comparison with a reference. Refuses to own the order of a step
(stages/sampling/online_job.py), the rule of pairs (algorithms/preference/) and the losses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlpost.errors import NothingToPrefer
from rlpost.stages.preference.batch import ResponsePacker
from rlpost.stages.preference.online.pairs import paired_examples
from rlpost.stages.preference.reference import Reference
from rlpost.stages.run import Run
from rlpost.stages.step_record import StepRecord
from rlpost.tracking.tracker import Phase
from rlpost.training.packing.pack import Packed
from rlpost.types import Group


@dataclass(frozen=True, kw_only=True)
class PairBatches:
    """The ``Batches`` of online preference learning."""

    cfg: Any  # PreferenceConfig
    run: Run
    reference: Reference | None  # None for a loss that compares with none
    packer: ResponsePacker

    async def packed(self, groups: Sequence[Group], record: StepRecord) -> Packed:
        """Return a pair of each group, with what the reference says of it."""
        examples = paired_examples(groups, seed=self.cfg.seed)
        record.add({"preference/pairs": float(len(groups))})
        packed = self.packer(examples)
        if self.reference is None:
            return packed
        self.run.tracker.phase(Phase.scoring)
        with record.timed("ref"):
            found = await self.reference.logprobs(packed, examples)
        return packed.attach(ref_logprobs_R=found)

    def nothing(self, tried: int) -> NothingToPrefer:
        """Return the error of a step in which no group has a pair."""
        return NothingToPrefer(
            f"pairing: in none of {tried} groups did the rewards of the responses differ, so that "
            "nothing is preferred (a pair is a response of the highest reward of a group against "
            f"one of the lowest; pairing.max_rounds={self.cfg.pairing.max_rounds}); raise "
            f"rollout.group_size={self.cfg.rollout.group_size} or rollout.temperature, use a "
            "verifier with more values than 0 and 1 or a reward model, or other prompts"
        )
