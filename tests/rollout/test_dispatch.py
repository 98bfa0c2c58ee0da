"""Who gets a request, what a failure says, and that permits return."""

import asyncio
import random
from typing import ClassVar

import pytest
from fakes import FakeGenerator, prompt, serving_fleet

from rlpost.control.concurrency import Load
from rlpost.control.fleet import Health
from rlpost.errors import NoAnswer, ProcessDied, RequestAborted
from rlpost.rollout.dispatch import Dispatcher
from rlpost.rollout.signal import Signal
from rlpost.types import GenerationRequest, SamplingConfig


class Gate(FakeGenerator):
    """Answers when told to, or fails with ``error``."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.error = error
        self.running: list[str] = []

    async def generate(self, request):
        self.running.append(request.key)
        try:
            await self.open.wait()
            if self.error is not None:
                raise self.error
            return ()
        finally:
            self.running.remove(request.key)


def request(key: str) -> GenerationRequest:
    sampling = SamplingConfig(max_tokens=4)
    return GenerationRequest(key=key, prompt=prompt(), num_samples=1, seed=0, sampling=sampling)


def make(generators, *, permits=64, version=1):
    fleet = serving_fleet(list(generators), version=version)
    signal = Signal()
    return Dispatcher(fleet, generators, signal=signal, permits=permits), fleet, signal


async def running(work) -> asyncio.Task:
    task = asyncio.create_task(work)
    for _ in range(5):
        await asyncio.sleep(0)
    return task


async def test_the_least_busy_healthy_generator_is_chosen():
    generators = {"a": Gate(), "b": Gate(), "c": Gate()}
    dispatcher, fleet, _ = make(generators)
    fleet.missed("c", incarnation=0, reason="slow")
    tasks = [await running(dispatcher.generate(request(str(i)))) for i in range(4)]
    assert [len(g.running) for g in generators.values()] == [2, 2, 0]
    for gate in generators.values():
        gate.open.set()
    await asyncio.gather(*tasks)


async def test_requests_wait_for_permits_and_for_health():
    generators = {"a": Gate()}
    dispatcher, fleet, signal = make(generators, permits=1)
    first, second = [await running(dispatcher.generate(request(str(i)))) for i in range(2)]
    assert generators["a"].running == ["0"]
    fleet.missed("a", incarnation=0, reason="slow")
    generators["a"].open.set()
    await first
    await running(asyncio.sleep(0))
    assert not second.done() and not generators["a"].running, "a suspect takes nothing new"
    fleet.answered("a", incarnation=0)
    signal.notify()
    await second


async def test_the_version_at_the_start_is_told():
    generators = {"a": Gate()}
    dispatcher, _, _ = make(generators, version=7)
    generators["a"].open.set()
    seen = []
    await dispatcher.generate(request("x"), on_start=seen.append)
    assert seen == [7]


@pytest.mark.parametrize(
    ("error", "health"),
    [
        (ProcessDied("gone"), Health.dead),
        (NoAnswer("late"), Health.suspect),
        (RequestAborted("refused push"), Health.healthy),
    ],
)
async def test_what_a_failure_says_about_its_generator(error, health):
    generators = {"a": Gate(error)}
    dispatcher, fleet, _ = make(generators, permits=1)
    generators["a"].open.set()
    with pytest.raises(type(error)):
        await dispatcher.generate(request("x"))
    assert fleet.members["a"].health is health
    await dispatcher.drained("a")  # the permit came back


async def test_late_requests_are_given_up_and_kill_nobody():
    """However many: the ping decides. None of them runs on beside its next attempt."""

    class Slow(Gate):
        cancelled: ClassVar[list[str]] = []

        async def cancel(self, key):
            self.cancelled.append(key)
            return []

    generators = {"a": Slow(NoAnswer("late"))}
    dispatcher, fleet, _ = make(generators)
    work = [await running(dispatcher.generate(request(str(i)))) for i in range(9)]
    generators["a"].open.set()
    for result in await asyncio.gather(*work, return_exceptions=True):
        assert isinstance(result, NoAnswer)
    assert fleet.members["a"].health is Health.suspect
    assert sorted(generators["a"].cancelled) == [str(i) for i in range(9)]
    fleet.answered("a", incarnation=0)
    assert fleet.serving() == ["a"]
    await dispatcher.drained("a")


async def test_a_cancelled_request_gives_its_permit_back():
    generators = {"a": Gate()}
    dispatcher, _, _ = make(generators, permits=1)
    task = await running(dispatcher.generate(request("x")))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(dispatcher.drained("a"), 60)


async def test_a_suspect_prompt_runs_alone():
    generators = {"a": Gate()}
    dispatcher, _, _ = make(generators)
    first = await running(dispatcher.generate(request("innocent")))
    alone = await running(dispatcher.generate(request("suspect"), alone=True))
    later = await running(dispatcher.generate(request("later")))
    assert generators["a"].running == ["innocent"]
    gate, generators["a"].open = generators["a"].open, asyncio.Event()
    gate.set()
    await first
    await running(asyncio.sleep(0))
    assert generators["a"].running == ["suspect"]
    generators["a"].open.set()
    await asyncio.gather(alone, later)


class LooksAtAll(Dispatcher):
    """Chooses by a look at every generator."""

    def _choose(self, alone):
        free = [
            name
            for name in self._fleet.serving()
            if name not in self._closed_for_one and (alone or self._of(name).free > 0)
        ]
        return min(free, key=lambda name: self._of(name).used, default=None)


class LooksAtUnhealthy(Dispatcher):
    """Broken: does not see that the fleet has changed."""

    def _choose(self, alone):
        self._seen_changes = self._fleet.changes
        return super()._choose(alone)


async def history(kind, seed) -> list[dict[str, list[str]]]:
    """Return who ran what, after each event of a random history."""
    rng = random.Random(seed)
    names = [f"generator {n}" for n in range(5)]
    generators = {name: Gate() for name in names}
    fleet, signal = serving_fleet(names, version=1), Signal()
    dispatcher = kind(fleet, generators, signal=signal, permits=3)
    dispatcher._choose(False)
    tasks, looks = [], []
    for number in range(60):
        name, event = rng.choice(names), rng.random()
        if event < 0.55:
            alone = event < 0.08
            tasks.append(
                asyncio.create_task(dispatcher.generate(request(f"{number}"), alone=alone))
            )
        elif event < 0.7:
            generators[name].open.set()
        elif event < 0.8:
            fleet.suspected(name, incarnation=0, reason="late")
        elif event < 0.9:
            fleet.answered(name, incarnation=0)
            signal.notify()
        else:
            dispatcher.observe(name, Load(kv_use=rng.random(), num_preempted=number // 20))
        for _ in range(8):
            await asyncio.sleep(0)
        generators[name].open.clear()
        looks.append({name: sorted(gate.running) for name, gate in generators.items()})
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return looks


async def test_the_choice_is_that_of_a_look_at_every_generator():
    for seed in range(40):
        expected = await history(LooksAtAll, seed)
        assert await history(Dispatcher, seed) == expected, seed
    assert any(map(len, expected[-1].values()))
    assert any([await history(LooksAtUnhealthy, s) != await history(LooksAtAll, s) for s in (0, 1)])


async def test_memory_pressure_lowers_the_permits():
    generators = {"a": Gate()}
    dispatcher, _, _ = make(generators, permits=2)
    dispatcher.observe("a", Load(kv_use=0.99, num_preempted=1))
    tasks = [await running(dispatcher.generate(request(str(i)))) for i in range(2)]
    assert generators["a"].running == ["0"]
    generators["a"].open.set()
    await asyncio.gather(*tasks)
