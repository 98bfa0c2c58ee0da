"""Ranks that divide the weights of a frozen model, and score packed tokens.

Owns the rank actor, and who is asked of what. Refuses to own the passes
(training/zero/deepspeed_scorer.py) and the replacement of the ranks (frozen_ranks.py). Invariant:
all ranks make equally many passes, and no answer is counted twice.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rlpost.cluster.frozen_ranks import FrozenRanks
from rlpost.cluster.ranks import rendezvous_address
from rlpost.cluster.scorers import Asked
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.scorer import Share, of_share
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.settings import TrainerConfig
from rlpost.training.zero.deepspeed_scorer import DividedScorer
from rlpost.training.zero.rank import Rank


class DividedRank:
    """What runs in each process."""

    def __init__(self, *, rank: int) -> None:
        self._rank = rank

    def address(self) -> tuple[str, int]:
        """Return where the ranks meet: this node's address and a free port."""
        return rendezvous_address()

    def setup(
        self,
        *,
        cfg: TrainerConfig,
        model: TrainedModel,
        world_size: int,
        master: tuple[str, int],
    ) -> None:
        """Join the others and load this rank's part."""
        host, port = master
        place = Rank(rank=self._rank, world_size=world_size, master_address=host, master_port=port)
        self._scorer = DividedScorer(cfg, model=model, place=place)

    def ask(
        self,
        method: str,
        shares: Sequence[Share],
        passes: int,
        options: Mapping[str, Any],
        *parts: Sequence[MicroBatch],
    ) -> list[list[Any]]:
        """Call a verb of ``DividedScorer`` on a share of each part; returns the answers of each."""
        given = [of_share(part, share) for part, share in zip(parts, shares, strict=True)]
        flat = [batch for batches in given for batch in batches]
        answers = iter(getattr(self._scorer, method)(flat, passes=passes, **options))
        return [[next(answers) for _ in batches] for batches in given]

    def sleep(self) -> int:
        return self._scorer.sleep()


class DividedScorers:
    """The driver's end of ``num`` ranks, as ``Scorers``."""

    def __init__(self, ranks: FrozenRanks, *, num: int) -> None:
        self._ranks = ranks
        self._num = num

    @property
    def num(self) -> int:
        return self._num

    async def setup(self) -> None:
        await self._ranks.setup()

    async def ask(self, method: str, asked: Sequence[Asked], **options: Any) -> list[list[Any]]:
        """See ``Scorers.ask``; in one call of each rank."""
        of_rank = [asked[rank :: self._num] for rank in range(self._num)]
        passes = max(sum(each.num for each in mine) for mine in of_rank)
        if passes == 0:
            return [[] for _ in asked]
        arguments = [
            (method, [each.share for each in mine], passes, options, *(each.part for each in mine))
            for mine in of_rank
        ]
        answers = await self._ranks.own("ask", arguments)
        return [answers[i % self._num][i // self._num] for i in range(len(asked))]

    async def sleep(self) -> int:
        return await self._ranks.sleep()

    def kill(self) -> None:
        self._ranks.kill()
