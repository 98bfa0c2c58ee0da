"""The frozen reference model in Ray actors.

Owns the spread of micro-batches over scorers. Refuses to own the forward pass
(training/model/scorer.py). Invariant: a scorer holds no state, so a lost one is replaced and asked
again.
"""

import asyncio
from collections.abc import Sequence

import numpy as np

from rlpost.cluster.handle import Handle, Stateless
from rlpost.cluster.session import Session
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.scorer import FrozenScorer
from rlpost.training.packing.pack import Batches
from rlpost.training.settings import TrainerConfig

REFERENCE = "reference"


class ReferenceGroup:
    """The driver's end of the frozen reference model."""

    def __init__(self, scorers: Sequence[Stateless]) -> None:
        self._scorers = scorers

    async def score(self, batches: Batches, *, temperature: float = 1.0) -> list[list[np.ndarray]]:
        """Log-probs of every micro-batch's scored tokens; like ``TrainedGroup.score``."""
        calls = (
            self._scorers[rank % len(self._scorers)].call("score", rank_batches, temperature)
            for rank, rank_batches in enumerate(batches)
        )
        return await asyncio.gather(*calls)

    async def sleep(self) -> int:
        """Leave memory until the next call; returns the bytes of all scorers together."""
        return sum(await asyncio.gather(*(scorer.sleep() for scorer in self._scorers)))


def spawn_reference(
    session: Session, cfg: TrainerConfig, *, model: TrainedModel, call_timeout_s: float
) -> ReferenceGroup:
    """Create one frozen scorer of the stage's starting policy."""

    def spawn() -> Handle:
        actor = session.spawn(FrozenScorer, cfg, model=model, slot=REFERENCE)
        return Handle(actor, name=REFERENCE, timeout_s=call_timeout_s)

    return ReferenceGroup([Stateless(spawn)])
