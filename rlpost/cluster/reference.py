"""A frozen model in Ray actors: a reference, or a teacher that is asked before training.

Owns the spread of micro-batches over scorers. Refuses to own the actors, which have the model each
(scorers.py) or a part of it (divided.py). Invariant: a scorer holds no state, so a lost one is
replaced and asked again.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from rlpost.cluster.batch_store import HoldsBatches
from rlpost.cluster.divided import DividedRank, DividedScorers
from rlpost.cluster.frozen_ranks import FrozenRanks
from rlpost.cluster.handle import Handle, Stateless
from rlpost.cluster.ranks import rank_names, spawn_ranks
from rlpost.cluster.scorers import Asked, Copies, Scorers
from rlpost.cluster.session import Session
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.scorer import FrozenScorer
from rlpost.training.packing.pack import Packed
from rlpost.training.settings import TrainerConfig

REFERENCE = "reference"


class ReferenceGroup:
    """The driver's end of a frozen model; ``store`` holds what the scorers are given."""

    def __init__(self, scorers: Scorers, *, store: HoldsBatches) -> None:
        self._scorers = scorers
        self._store = store

    async def setup(self) -> None:
        """See ``Scorers.setup``.

        Raises:
            UserError: the model cannot be loaded.
            InfrastructureError: an actor did not come up.
        """
        await self._scorers.setup()

    async def score(self, packed: Packed, *, temperature: float = 1.0) -> list[list[np.ndarray]]:
        """Log-probs of every micro-batch's scored tokens; like ``TrainedGroup.score``."""
        return await self._each("score", packed, temperature=temperature)

    async def top_tokens(
        self, packed: Packed, *, k: int, vocabulary: int, temperature: float
    ) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """See ``FrozenScorer.top_tokens``; of every rank's micro-batches."""
        asked = {"k": k, "vocabulary": vocabulary, "temperature": temperature}
        return await self._each("top_tokens", packed, **asked)

    async def _each(self, method: str, packed: Packed, **options: Any) -> list[Any]:
        """Ask about every micro-batch; returns the answers in the order of ``packed.batches``.

        The micro-batches of a trainer's rank are divided among so many scorers that all have
        equally many shares, whatever the numbers of ranks and scorers.
        """
        parts = self._store.parts(packed)
        num = self._scorers.num // math.gcd(self._scorers.num, len(parts))  # shares of a part
        places, asked = [], []
        for rank, part in enumerate(parts):
            size = len(packed.batches[rank])
            for share in range(min(num, size)):
                places.append((rank, share))
                asked.append(Asked(part=part, share=(share, num), num=len(range(share, size, num))))
        answers = await self._scorers.ask(method, asked, **options)
        found = dict(zip(places, answers, strict=True))
        return [
            [found[rank, number % num][number // num] for number in range(len(of_rank))]
            for rank, of_rank in enumerate(packed.batches)
        ]

    async def sleep(self) -> int:
        """Leave memory until the next call; returns the bytes of all scorers together."""
        return await self._scorers.sleep()

    def end(self) -> None:
        """End the actors, whose slots are free for others then."""
        self._scorers.kill()


def reference_slots(num_ranks: int) -> list[str]:
    """Example: ``reference_slots(2) == ["reference rank 0", "reference rank 1"]``."""
    if num_ranks == 1:
        return [REFERENCE]
    return rank_names(REFERENCE, num_ranks)


def spawn_frozen(
    session: Session,
    cfg: TrainerConfig,
    *,
    model: TrainedModel,
    slots: Sequence[str],
    call_timeout_s: float,
) -> ReferenceGroup:
    """Create a frozen scorer of ``model`` in each slot, or one rank of those that divide it.

    Call ``setup`` on the group before it is asked.
    """
    if model.is_divided:
        ranks = spawn_ranks(
            session,
            DividedRank,
            slots=slots,
            call_timeout_s=call_timeout_s,
            settings={"cfg": cfg, "model": model},
        )
        divided = DividedScorers(FrozenRanks(ranks), num=len(slots))
        return ReferenceGroup(divided, store=session.batches)

    def spawn(slot: str) -> Handle:
        actor = session.spawn(FrozenScorer, cfg, model=model, slot=slot)
        return Handle(actor, name=slot, timeout_s=call_timeout_s)

    scorers = Copies([Stateless(partial(spawn, slot)) for slot in slots])
    return ReferenceGroup(scorers, store=session.batches)
