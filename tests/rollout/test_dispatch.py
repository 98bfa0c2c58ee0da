"""Who gets a request, what a failure says, and that permits return."""

import asyncio
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
    await asyncio.wait_for(dispatcher.drained("a"), 1)


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


async def test_memory_pressure_lowers_the_permits():
    generators = {"a": Gate()}
    dispatcher, _, _ = make(generators, permits=2)
    dispatcher.observe("a", Load(kv_use=0.99, num_preempted=1))
    tasks = [await running(dispatcher.generate(request(str(i)))) for i in range(2)]
    assert generators["a"].running == ["0"]
    generators["a"].open.set()
    await asyncio.gather(*tasks)
