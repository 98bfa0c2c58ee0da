"""The columns of a batch that models make: the reference's log-probs and KTO's reference point.

Owns who is asked for what. Refuses to own where a reference's answers come from (reference.py) and
the formula of the point (algorithms/preference/kto.py). Invariant: the point is one number of all
that is averaged together, of the weights before the update.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rlpost.algorithms.preference.kto import reference_point
from rlpost.data.example import Example
from rlpost.stages.preference.batch import ResponsePacker
from rlpost.stages.preference.reference import Reference, Score, row_parts
from rlpost.training.packing.pack import Packed


@dataclass(frozen=True, kw_only=True)
class ModelColumns:
    """Attaches what models say of a batch.

    Attributes:
        reference: None for a loss that compares with none.
        mismatched: returns, row by row, completions behind prompts of other rows; None for a loss
            that reads no reference point.
        score: of the policy as it is.
        packer: packs what is only scored.
    """

    reference: Reference | None
    mismatched: Callable[[Sequence[Example]], list[list[Example]]] | None
    score: Score
    packer: ResponsePacker

    async def attach(
        self, packed: Packed, examples: Sequence[Example], *, kl: float | None
    ) -> Packed:
        """Return ``packed`` with the columns that the loss reads.

        Args:
            packed: the examples.
            examples: in the order of their numbers.
            kl: what ``reference_point`` returned.
        """
        if self.reference is not None:
            found = await self.reference.logprobs(packed, examples)
            packed = packed.attach(ref_logprobs_R=found)
        if kl is not None:
            packed = packed.attach(kl_U=np.full(len(examples), kl))
        return packed

    async def reference_point(self, examples: Sequence[Example]) -> float | None:
        """Return KTO's z of all that is averaged together; None: the loss reads none."""
        if self.mismatched is None:
            return None
        assert self.reference is not None
        policy_N: list[float] = []
        ref_N: list[float] = []
        for part in row_parts(self.mismatched(examples)):
            wrong = [each for row in part for each in row]
            packed = self.packer.to_score(wrong)
            answers = packed.by_item(await self.score(packed))
            theirs = await self.reference.logprobs(packed, wrong)
            policy_N += [float(answers[place].sum(dtype=np.float64)) for place in range(len(wrong))]
            ref_N += [float(theirs[place].sum(dtype=np.float64)) for place in range(len(wrong))]
        return reference_point(policy_N, ref_N) if policy_N else 0.0
