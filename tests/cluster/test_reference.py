"""A frozen model's micro-batches are divided over its copies, whatever the trainer's ranks."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from packed_groups import pack_into, random_groups

from rlpost.cluster.reference import ReferenceGroup, reference_slots
from rlpost.cluster.scorers import Copies
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.scorer import ALL, FrozenScorer, Share
from rlpost.training.settings import DType, TrainerConfig


class Here:
    """Hands over what ranks would be given."""

    def parts(self, packed: Any) -> Any:
        return packed.batches


class Scorer:
    """Answers each micro-batch, here a number, by its double; counts what it was given."""

    def __init__(self) -> None:
        self.given: list[int] = []

    async def call(
        self, method: str, batches: list[int], *, temperature: float, share: Share = ALL
    ) -> list[Any]:
        assert method == "score"
        mine = batches[share[0] :: share[1]]
        self.given += mine
        await asyncio.sleep(0.001 * len(mine))  # copies do not answer in order
        return [temperature * batch for batch in mine]


@pytest.mark.parametrize("num_scorers", [1, 2, 3, 7])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_answers_are_in_place_and_work_is_even(num_scorers, num_ranks):
    each = 42  # micro-batches of a rank, which any of these numbers of scorers can share evenly
    batches = [[each * rank + n for n in range(each)] for rank in range(num_ranks)]
    scorers = [Scorer() for _ in range(num_scorers)]
    group = ReferenceGroup(Copies(scorers), store=Here())
    found = asyncio.run(group.score(SimpleNamespace(batches=batches), temperature=2.0))
    assert found == [[2.0 * batch for batch in of_rank] for of_rank in batches]
    counts = [len(scorer.given) for scorer in scorers]
    assert sum(counts) == each * num_ranks
    assert max(counts) - min(counts) <= (num_ranks > 1 and num_scorers > num_ranks) * num_ranks


@pytest.mark.parametrize("batches", [[[1, 2, 3, 4, 5]], [[1], [2]], [[7], []], [[], []]])
def test_fewer_micro_batches_than_scorers_are_each_asked_about_once(batches):
    scorers = [Scorer() for _ in range(7)]
    group = ReferenceGroup(Copies(scorers), store=Here())
    found = asyncio.run(group.score(SimpleNamespace(batches=batches), temperature=2.0))
    assert found == [[2.0 * batch for batch in of_rank] for of_rank in batches]
    assert max(len(scorer.given) for scorer in scorers) <= 1


class RealScorer:
    """A copy of a model in this process; counts what it is asked."""

    def __init__(self, path) -> None:
        cfg = TrainerConfig(dtype=DType.float32, threads=1, logprob_chunk=32)
        self._scorer = FrozenScorer(cfg, model=TrainedModel.policy(str(path), cfg))
        self.asked = 0

    async def call(self, method: str, batches: list[Any], **options: Any) -> list[Any]:
        found = getattr(self._scorer, method)(batches, **options)
        self.asked += len(found)
        return found


def test_two_copies_of_a_model_say_bit_for_bit_what_one_says(tiny_model):
    packed = pack_into(*random_groups(), num_micro_batches=4)  # of one rank, so two share them
    scorers = [RealScorer(tiny_model) for _ in range(3)]
    one, two = (
        asyncio.run(ReferenceGroup(Copies(each), store=Here()).score(packed))
        for each in (scorers[:1], scorers[1:])
    )
    num = len(packed.batches[0])
    assert num > 2 and [each.asked for each in scorers] == [num, num - num // 2, num // 2]
    pairs = [p for a, b in zip(one, two, strict=True) for p in zip(a, b, strict=True)]
    assert len(pairs) == num and all(np.array_equal(a, b) for a, b in pairs)
    # What one micro-batch is answered is not what another one is.
    assert not any(np.array_equal(pairs[0][0], b) for _, b in pairs[1:])


def test_one_copy_has_the_name_that_it_always_had():
    assert reference_slots(1) == ["reference"]
    assert reference_slots(2) == ["reference rank 0", "reference rank 1"]
