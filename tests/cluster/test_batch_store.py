"""A step's tokens enter the object store once, pass through no call, and leave with the step."""

import asyncio
import os

import numpy as np
import pytest

from rlpost.algorithms.diagnostics import Tally
from rlpost.cluster.batch_store import BatchStore
from rlpost.cluster.handle import Handle, Stateless
from rlpost.cluster.ranks import Ranks
from rlpost.cluster.reference import ReferenceGroup
from rlpost.cluster.scorers import Copies
from rlpost.cluster.session import ClusterConfig, Session
from rlpost.cluster.trained import TrainedGroup
from rlpost.training.packing.pack import Packed, pack
from rlpost.training.packing.units import Unit

NUM_RANKS = 2


class Model:
    """Answers as ranks and scorers do, with what it finds in its own micro-batches."""

    def __init__(self, dies_at: str | None = None) -> None:
        self.dies_at = dies_at

    def score(self, batches, temperature=1.0, adapter=True):
        if self.dies_at is not None and not os.path.exists(self.dies_at):
            open(self.dies_at, "w").close()
            os._exit(1)
        return [batch.target_R.astype(np.float32) for batch in batches]

    def forward_backward(self, batches, objective, temperature):
        assert all(np.array_equal(b.columns["weight_R"], b.target_R) for b in batches)
        return Tally()


class Counting(Handle):
    """Adds up the bytes of the arguments that the driver sends."""

    sent_bytes = 0

    async def call(self, method, *args, timeout_s=None, **kwargs):
        Counting.sent_bytes += sum(map(size_of, (*args, *kwargs.values())))
        return await super().call(method, *args, timeout_s=timeout_s, **kwargs)


def size_of(argument) -> int:
    import ray

    is_reference = isinstance(argument, ray.ObjectRef)
    return len(argument.binary() if is_reference else ray.cloudpickle.dumps(argument))


@pytest.fixture(scope="module")
def session():
    with Session(ClusterConfig(), step_bytes=64 << 20) as session:
        yield session


@pytest.fixture(scope="module")
def ranks(session):
    """The actors of every model here."""
    handles = [Counting(session.spawn(Model), name="rank", timeout_s=60) for _ in range(NUM_RANKS)]
    return Ranks(lambda: handles, settings={}), Stateless(lambda: handles[0])


def models(ranks, *, store):
    """A reference, a policy and a critic."""
    of_trained, scorer = ranks
    trained = [TrainedGroup(of_trained, store=store) for _ in range(2)]
    return ReferenceGroup(Copies([scorer]), store=store), *trained


class NotStored:
    """Has the micro-batches themselves in every call."""

    def parts(self, packed):
        return packed.batches


def packed(num_tokens: int) -> Packed:
    """Pack sequences of 100 tokens, each token weighted by itself."""
    scored = np.array([False] + [True] * 99)
    rows = [np.arange(100) + 1000 * n for n in range(num_tokens // 100)]
    units = [Unit.of(ids.tolist(), scored=scored, number=n) for n, ids in enumerate(rows)]
    bare = pack(units, num_ranks=NUM_RANKS, max_tokens=4096)
    return bare.attach(weight_R={n: ids[1:] for n, ids in enumerate(rows)})


async def step(models, *, num_tokens: int) -> int:
    """Score a batch with every model and train on it twice; returns what the driver sent."""
    reference, policy, critic = models
    before, batch = Counting.sent_bytes, packed(num_tokens)
    for model in (reference, policy, critic):
        answers = batch.by_item(await model.score(batch))
        assert answers[1].tolist() == list(range(1001, 1100))
    for model in (policy, critic) * 2:
        await model.forward_backward(batch, None)
    return Counting.sent_bytes - before


def stored_bytes() -> int:
    """Return what the object store of this machine holds."""
    import ray
    from ray._private.internal_api import node_stats

    (node,) = ray.nodes()
    found = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False)
    return found.store_stats.object_store_bytes_used


async def settled(expected: range) -> int:
    """Wait until the store holds as much as expected: Ray frees every second."""
    for _ in range(240):
        if stored_bytes() in expected:
            break
        await asyncio.sleep(0.25)
    return stored_bytes()


async def test_what_the_driver_sends_does_not_grow_with_the_tokens(ranks):
    stored = models(ranks, store=BatchStore())
    few = await step(stored, num_tokens=1_000)
    many = await step(stored, num_tokens=100_000)
    assert 0 < few == many < 2_000
    assert await step(models(ranks, store=NotStored()), num_tokens=100_000) > 7 * 40 * 100_000


async def test_a_batch_is_stored_once_and_leaves_with_the_step(ranks):
    reference, policy, critic = everyone = models(ranks, store=BatchStore())
    before = await settled(range(1))
    batch = packed(100_000)
    size = sum(array.nbytes for mine in batch.batches for each in mine for array in arrays(each))
    for model in (reference, policy, critic, policy):
        await model.score(batch)
    about_once = range(before + size, before + size + size // 10)
    assert await settled(about_once) in about_once
    del batch
    assert await settled(range(before + 1)) <= before
    for _ in range(4):
        await step(everyone, num_tokens=100_000)
    assert await settled(range(before + 1)) <= before, "the store grows over steps"


def arrays(batch):
    named = (value for value in vars(batch).values() if isinstance(value, np.ndarray))
    return (*named, *batch.columns.values())


async def test_a_rank_gets_its_own_part_and_a_new_scorer_gets_it_again(session, tmp_path):
    batch, store = packed(10_000), BatchStore()
    once = str(tmp_path / "died")

    def spawn() -> Handle:
        return Handle(session.spawn(Model, dies_at=once), name="scorer", timeout_s=60)

    answers = await ReferenceGroup(Copies([Stateless(spawn)]), store=store).score(batch)
    assert os.path.exists(once)
    for mine, theirs in zip(batch.batches, answers, strict=True):
        for each, values_R in zip(mine, theirs, strict=True):
            assert values_R.tolist() == each.target_R.tolist()
