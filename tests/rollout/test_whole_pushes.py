"""In which order an engine that sleeps is asked what, by a stand-in for vLLM's that keeps account.

The stand-in holds vLLM's rules: memory that is away is read by nobody and comes back empty, and
generation goes on by itself once all memory is there. What a real engine does with weights is in
tests/system/.
"""

import asyncio

import pytest

from rlpost.errors import WeightPushError
from rlpost.rollout.generator_config import GeneratorConfig
from rlpost.rollout.vllm.sampler import VllmSampler
from rlpost.rollout.whole_pushes import WholePushes
from rlpost.weights.manifest import PushManifest
from rlpost.weights.transports.protocol import Locator


class Engine:
    """Its kernels hold a version, or None where that is undefined."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.away: set[str] = set()
        self.paused = False
        self.kernels: int | None = 0
        self.staged: int | None = None
        self.committed: int | None = None

    async def ask(self, verb, *args, **options):
        what = args[0] if verb == "collective_rpc" else "+".join(options.get("tags", []))
        self.calls.append(f"{verb} {what}".strip())
        return getattr(self, f"_{what if verb == 'collective_rpc' else verb}")(**options)

    async def offer(self, verb, *args, **options):
        self.calls.append(verb)
        if verb == "finish_weight_update":
            assert self.paused and "weights" not in self.away
            self.kernels, self.staged = self.staged, None

    async def receive_model(self, locator, *, first_rank):
        self.calls.append("receive")
        self.staged = locator.manifest["version"]

    def _pause_generation(self, **options):
        self.paused = True

    def _resume_generation(self):
        assert not self.away
        self.paused = False

    def _sleep(self, *, level, mode):
        assert (level, mode) == (2, "abort")
        self.paused, self.away, self.kernels = True, {"weights", "kv_cache"}, None

    def _wake_up(self, *, tags):
        assert self.away >= set(tags)
        self.away -= set(tags)
        self.paused = bool(self.away)

    def _update_weight_version(self, *args):
        """Only spans read it."""

    def _rlpost_commit(self):
        self.committed = self.kernels

    def _rlpost_forget_kernels(self):
        self.kernels = None

    def _rlpost_rollback(self):
        assert "weights" not in self.away
        if self.kernels != self.committed and self.committed is not None:
            self.kernels = self.committed
        return [self.kernels is not None and self.kernels == self.committed]


def over(engine: Engine, *, blank: bool = False) -> WholePushes:
    sampler = VllmSampler(GeneratorConfig(), model_path="nowhere", adapters=None, blank=blank)
    sampler.engine = engine
    return WholePushes(sampler, blank=blank)


def payload(version: int) -> Locator:
    return Locator(transport="fake", manifest=PushManifest(version=version, entries=()).to_dict())


async def push(pushes: WholePushes, version: int) -> None:
    await pushes.begin(version)
    await pushes.receive(payload(version), first_rank=1)
    await pushes.load(version)
    await pushes.commit(version)


async def asleep() -> tuple[Engine, WholePushes]:
    """An engine that has served version 1 and left its device."""
    engine = Engine()
    pushes = over(engine)
    await push(pushes, 1)
    await pushes.sleep()
    engine.calls.clear()
    return engine, pushes


async def test_it_comes_back_in_the_order_in_which_memory_is_needed():
    engine, pushes = await asleep()
    await push(pushes, 2)
    assert engine.calls == [
        "wake_up weights",
        "pause_generation",
        "start_weight_update",
        "receive",
        "finish_weight_update",
        "wake_up kv_cache",
        "resume_generation",
        "collective_rpc rlpost_commit",
    ]
    assert (engine.kernels, engine.away, engine.paused) == (2, set(), False)
    assert pushes.version == 2


async def test_asleep_it_answers_nothing_and_sleeps_once():
    engine, pushes = await asleep()
    waiting = asyncio.create_task(pushes.serving())
    with pytest.raises(WeightPushError, match="no weights"):
        pushes.enter("r1", probes=True)
    await pushes.sleep()
    assert engine.calls == []
    await asyncio.sleep(0)
    assert not waiting.done()
    await push(pushes, 2)
    await waiting
    assert pushes.enter("r1").version == 2


async def test_a_version_that_was_given_up_can_be_pushed_again_and_counts_then():
    """As when a late joiner, which has nothing to go back to, catches up at the second try."""
    engine = Engine()
    pushes = over(engine, blank=True)
    await pushes.begin(4)
    with pytest.raises(WeightPushError, match="no committed version"):
        await pushes.abort(4)
    assert pushes.refuses([4])
    engine.calls.clear()
    await push(pushes, 4)
    assert engine.calls[:2] == ["pause_generation", "start_weight_update"]  # it begins anew
    assert (engine.committed, pushes.version) == (4, 4) and not pushes.refuses([4])


@pytest.mark.parametrize("reached", ["nothing", "begin", "receive", "load"])
async def test_an_abort_brings_back_what_was_served_from_wherever_it_is(reached):
    engine, pushes = await asleep()
    phases = ["nothing", "begin", "receive", "load"]
    for verb in phases[1 : 1 + phases.index(reached)]:
        if verb == "receive":
            await pushes.receive(payload(2), first_rank=1)
        else:
            await getattr(pushes, verb)(2)
    assert await pushes.abort(2) == 1
    assert (engine.kernels, engine.away, engine.paused) == (1, set(), False)
    assert pushes.enter("r1").version == 1


async def test_without_a_version_to_go_back_to_it_stays_asleep_until_a_push():
    engine = Engine()
    pushes = over(engine, blank=True)
    await pushes.sleep()
    await pushes.begin(1)
    with pytest.raises(WeightPushError, match="no committed version"):
        await pushes.abort(1)
    assert engine.away == {"kv_cache"} and engine.paused
    await pushes.sleep()  # all of it leaves
    assert engine.away == {"weights", "kv_cache"}
    await push(pushes, 2)
    assert (engine.kernels, engine.away, engine.paused) == (2, set(), False)


async def test_a_version_that_it_had_comes_back_after_sleep():
    """As for a generator that catches up with what others serve."""
    engine, pushes = await asleep()
    await push(pushes, 1)
    assert engine.kernels == 1 and pushes.version == 1
    with pytest.raises(WeightPushError, match="not newer"):  # negative control: it is awake
        await pushes.begin(1)
