"""Batches within the bound, exact accounting, and a state to go on from."""

import asyncio
import itertools

import pytest
from episodes import episode, trajectory
from fakes import prompt

from rlpost.control.ledger import Ledger
from rlpost.control.staleness import OnOverage, Staleness, StalenessConfig
from rlpost.errors import InfrastructureError, RunFailed
from rlpost.rollout.collector import Collected
from rlpost.rollout.producer import INFRASTRUCTURE, NO_GRADIENT, STALE, Producer, PromptStream
from rlpost.types import Group, SamplingConfig

BATCH = 2


class Hand:
    """A collector whose groups finish when the test says so."""

    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Future] = {}
        self.version = 1
        self.cancelled: list[str] = []

    async def group(self, prompt, *, num_samples, sampling, seed, on_start):
        version = self.version
        on_start(version)
        done = self.waiting[prompt.uid] = asyncio.get_running_loop().create_future()
        try:
            length = await done
        finally:
            self.waiting.pop(prompt.uid, None)
        versions = [version, *[self.version] * (length - 1)]
        sampled = trajectory((1,) * length, prompt_ids=prompt.token_ids, versions=versions)
        group = Group(prompt=prompt, episodes=(episode(sampled, uid=prompt.uid, reward=1.0),))
        return Collected(group=group, generated_s=0.0, judged_s=0.0)

    async def cancel(self, uid):
        self.cancelled.append(uid)
        return [40]

    async def finish(self, *uids: str, length: int = 5) -> None:
        for uid in uids:
            self.waiting[uid].set_result(length)
        await settle()

    async def fail(self, uid: str, error: Exception) -> None:
        self.waiting[uid].set_exception(error)
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def make(*, useful=lambda group: True, max_draws=None, **config):
    hand, ledger = Hand(), Ledger()
    rows = itertools.count()
    staleness = Staleness(StalenessConfig(**config), batch=BATCH)
    source = PromptStream(
        draw=lambda: prompt(f"0:{next(rows)}"),
        find=prompt,
        useful=useful,
        max_draws=max_draws,
        num_samples=1,
        sampling=SamplingConfig(max_tokens=8),
        seed=0,
    )
    producer = Producer(source, collector=hand, ledger=ledger, staleness=staleness)
    return producer, hand, ledger


async def asked(producer) -> asyncio.Task:
    task = asyncio.create_task(producer.next_batch())
    await settle()
    return task


def push(producer, hand, *, version: int, step: int) -> None:
    hand.version = version
    producer.committed(version=version, step=step)


def uids(batch) -> list[str]:
    return [group.prompt.uid for group in batch.groups]


async def test_on_policy_a_step_samples_when_asked_and_nothing_else():
    producer, hand, ledger = make()
    push(producer, hand, version=1, step=0)
    await settle()
    assert not hand.waiting
    batch = await asked(producer)
    assert list(hand.waiting) == ["0:0", "0:1"]
    await hand.finish("0:1", "0:0")
    assert uids(await batch) == ["0:0", "0:1"], "in the order of admission"
    await settle()
    assert not hand.waiting, "nothing starts between the cut and the push"
    producer.trained(step=1)
    assert ledger.counts.consumed == 2 and ledger.balanced()


async def test_ahead_the_next_groups_run_while_a_step_trains():
    producer, hand, _ = make(max_staleness=1)
    push(producer, hand, version=1, step=0)
    await settle()
    assert list(hand.waiting) == ["0:0", "0:1", "0:2", "0:3"]
    batch = await asked(producer)
    await hand.finish("0:3", "0:1")
    taken = await batch
    assert uids(taken) == ["0:1", "0:3"] and taken.lags == (0, 0)
    producer.trained(step=1)
    push(producer, hand, version=2, step=1)
    await settle()
    assert list(hand.waiting) == ["0:0", "0:2", "0:4", "0:5"]
    late = await asked(producer)
    await hand.finish("0:4", "0:5")
    assert not late.done(), "the groups of version 1 would age out: the step waits for them"
    await hand.finish("0:0", "0:2")
    taken = await late
    assert uids(taken) == ["0:0", "0:2"] and taken.lags == (1, 1)


async def test_dropped_groups_are_replaced_and_counted():
    producer, hand, ledger = make(useful=lambda group: group.prompt.uid != "0:0")
    push(producer, hand, version=1, step=0)
    batch = await asked(producer)
    await hand.finish("0:0")
    await hand.fail("0:1", InfrastructureError("no luck"))
    assert list(hand.waiting) == ["0:2", "0:3"]
    await hand.finish("0:2", "0:3")
    taken = await batch
    assert uids(taken) == ["0:2", "0:3"]
    assert [g.prompt.uid for g in taken.sampled] == ["0:0", "0:2", "0:3"]
    assert [d.reason for d in taken.dropped] == [NO_GRADIENT, INFRASTRUCTURE]
    assert ledger.counts.dropped == {NO_GRADIENT: 1, INFRASTRUCTURE: 1} and ledger.balanced()


async def test_a_step_trains_on_what_there_is_when_its_draws_are_used_up():
    producer, hand, _ = make(useful=lambda group: group.prompt.uid == "0:2", max_draws=3)
    push(producer, hand, version=1, step=0)
    batch = await asked(producer)
    await hand.finish("0:0", "0:1")
    await hand.finish("0:2")
    assert uids(await batch) == ["0:2"]


async def test_oversampling_cuts_without_the_last_and_drops_them_when_too_old():
    producer, hand, ledger = make(on_overage=OnOverage.drop, oversample=0.5)
    push(producer, hand, version=1, step=0)
    batch = await asked(producer)
    assert list(hand.waiting) == ["0:0", "0:1", "0:2"]
    await hand.finish("0:2", "0:0")
    assert uids(await batch) == ["0:0", "0:2"]
    producer.trained(step=1)
    push(producer, hand, version=2, step=1)
    await settle()
    assert ledger.counts.dropped == {STALE: 1} and hand.cancelled == ["0:1"]
    batch = await asked(producer)
    await hand.finish("0:3", "0:4")
    (dropped,) = (await batch).dropped
    assert dropped.reason == STALE and dropped.mean_tokens == 40.0


async def test_masking_leaves_out_the_tokens_that_are_too_old():
    producer, hand, _ = make(max_staleness=1, on_overage=OnOverage.mask)
    push(producer, hand, version=1, step=0)
    await settle()
    for step, finished in ((1, ("0:1", "0:2")), (2, ("0:3", "0:4"))):
        batch = await asked(producer)
        await hand.finish(*finished)
        await batch
        producer.trained(step=step)
        push(producer, hand, version=step + 1, step=step)
        await settle()
    batch = await asked(producer)
    await hand.finish("0:0", "0:5", length=6)
    first, second = (await batch).groups
    assert first.episodes[0].versions == (1, 3), "one token of version 1, two steps ago"
    assert (await batch).oldest_version == 2 <= min(second.episodes[0].versions)


async def test_a_bug_is_raised_where_the_batch_is_awaited():
    producer, hand, _ = make()
    push(producer, hand, version=1, step=0)
    batch = await asked(producer)
    await hand.fail("0:0", RunFailed("budget"))
    with pytest.raises(RunFailed, match="budget"):
        await batch
    await producer.stop()


async def test_a_restored_run_keeps_what_was_ready_and_starts_the_rest_again():
    producer, hand, ledger = make(max_staleness=1)
    push(producer, hand, version=1, step=0)
    await settle()
    await hand.finish("0:2")
    saved = (ledger.state_dict(), producer.ready(), dict(producer._staleness.state_dict()))
    await producer.stop()
    assert sorted(hand.cancelled) == ["0:0", "0:1", "0:3"]

    again, hand, ledger = make(max_staleness=1)
    ledger.load_state_dict(saved[0])
    again.restore(saved[1], staleness=saved[2], version=1)
    push(again, hand, version=2, step=0)
    await settle()
    assert list(hand.waiting) == ["0:0", "0:1", "0:3"], "0:2 is ready, nothing new is drawn"
    batch = await asked(again)
    await hand.finish("0:0")
    assert uids(await batch) == ["0:2", "0:0"]


async def test_a_failure_is_not_hidden_by_what_became_too_old():
    """The group whose task failed is still among the running ones when a push ages it."""
    producer, hand, *_ = make(max_staleness=1, on_overage=OnOverage.drop, oversample=1.0)
    push(producer, hand, version=1, step=0)
    await settle()
    await hand.fail(min(hand.waiting), RunFailed("too many failures"))
    for version in (2, 3, 4):
        push(producer, hand, version=version, step=version - 1)
    with pytest.raises(RunFailed, match="too many failures"):
        await producer.next_batch()
