"""A generator whose engine is dead: whichever verb notices first says so in our words.

With a living engine it is tested in tests/system/.
"""

import asyncio
import os
from functools import partial
from types import SimpleNamespace

import pytest
from vllm.v1.engine.exceptions import EngineDeadError

from rlpost.errors import NoAnswer, ProcessDied, WeightPushError
from rlpost.rollout.device_defaults import with_device_defaults
from rlpost.rollout.engine_generator import EngineGenerator
from rlpost.rollout.generator_config import AdapterCapacity, GeneratorConfig
from rlpost.rollout.sampled import Sampled
from rlpost.types import GenerationRequest, Prompt, SamplingConfig
from rlpost.weights.manifest import PushManifest
from rlpost.weights.transports.protocol import Locator

MANIFEST = PushManifest(version=1, entries=())
LOCATOR = Locator(transport="shared_memory", manifest=MANIFEST.to_dict(), where={})
PROMPT = Prompt(uid="0", token_ids=(1, 2), text="?")
REQUEST = GenerationRequest(
    key="a", prompt=PROMPT, num_samples=1, seed=0, sampling=SamplingConfig(max_tokens=1)
)


class DeadEngine:
    """Every call fails as vLLM's client does once its core is gone."""

    def shutdown(self):
        """Not a coroutine, and it does not fail."""

    def __getattr__(self, name):
        async def dead(*args, **kwargs):
            raise EngineDeadError

        async def dead_stream(*args, **kwargs):
            raise EngineDeadError
            yield

        return dead_stream if name == "generate" else dead


class EngineWithoutWorker(DeadEngine):
    """Its worker has just died, in the middle of a call; it is still there to say so."""

    words = "Call to collective_rpc method failed: cancelled"

    def __getattr__(self, name):
        async def cancelled(*args, **kwargs):
            raise Exception(self.words)

        return cancelled

    async def check_health(self):
        """As seen from here, all is well."""


async def test_a_worker_that_dies_in_a_call_is_infrastructure_too():
    generator = EngineGenerator(GeneratorConfig(), model_path="nowhere")
    generator._engine.engine.started = EngineWithoutWorker()
    for verb in (generator.health, partial(generator.receive, LOCATOR, first_rank=1)):
        with pytest.raises(ProcessDied, match="a worker of vLLM died in a call"):
            await verb()
    generator._engine.engine.started.words = "Call to collective_rpc method failed: no such method"
    with pytest.raises(Exception, match="no such method") as bug:  # negative control
        await generator.health()
    assert not isinstance(bug.value, ProcessDied)


async def test_an_engine_that_does_not_come_up_is_infrastructure(monkeypatch, tiny_model):
    """As when it is killed in its boot: it may come up elsewhere, or a little later."""
    from vllm.v1.engine import utils

    monkeypatch.setattr(utils.CoreEngineProcManager, "__init__", _killed_at_once(utils))
    cfg = with_device_defaults(GeneratorConfig(max_model_len=64), on_gpu=False, cores=1)
    generator = EngineGenerator(cfg, model_path=str(tiny_model))
    with pytest.raises(
        ProcessDied, match=rf"did not come up; why is in worker-\*-{os.getpid()}\.err"
    ):
        await generator.setup()
    await generator.close()


def _killed_at_once(utils):
    """The manager of vLLM's cores, whose processes are killed as soon as they exist."""
    start = utils.CoreEngineProcManager.__init__

    def init(self, *args, **kwargs):
        start(self, *args, **kwargs)
        for process in self.processes:
            process.kill()

    return init


@pytest.mark.parametrize(
    "verb",
    [
        lambda g: g.generate(REQUEST),
        lambda g: g.logprobs([[1, 2]]),
        lambda g: g.begin_push(1),
        lambda g: g.receive(LOCATOR, first_rank=1),
        lambda g: g.load(1),
        lambda g: g.commit_push(1),
        lambda g: g.health(),
        lambda g: g.close(),
        lambda g: g.cancel("a"),
    ],
    ids=[
        "generate",
        "logprobs",
        "begin_push",
        "receive",
        "load",
        "commit_push",
        "health",
        "close",
        "cancel",
    ],
)
async def test_its_death_is_infrastructure(verb):
    generator = EngineGenerator(GeneratorConfig(), model_path="nowhere")
    generator._engine.engine.started = DeadEngine()
    generator._running["a"] = "r1"
    with pytest.raises(ProcessDied, match="vLLM engine died"):
        await verb(generator)


async def test_a_push_is_not_undone_on_a_dead_engine_in_silence():
    generator = EngineGenerator(GeneratorConfig(), model_path="nowhere")
    generator._engine.engine.started, generator._pushes._pushing = DeadEngine(), 1
    with pytest.raises(ProcessDied):
        await generator.abort_push(1)


@pytest.mark.parametrize("verb", [lambda g: g.load(1), lambda g: g.abort_push(1)])
async def test_a_dead_engine_holds_no_adapter(verb):
    room = AdapterCapacity.of(rank=8, max_staleness=0)
    generator = EngineGenerator(GeneratorConfig(), model_path="nowhere", adapters=room)
    generator._engine.engine.started = DeadEngine()
    await generator.begin_push(1)  # nothing is asked of the engine
    with pytest.raises(ProcessDied, match="vLLM engine died"):
        await verb(generator)


async def test_without_weights_nothing_is_sampled():
    """Whatever comes before its first push: a request waits, a probe is refused."""
    generator = EngineGenerator(GeneratorConfig(), model_path="nowhere", blank=True)
    request = asyncio.create_task(generator.generate(REQUEST))
    with pytest.raises(WeightPushError, match="has no weights"):
        await generator.logprobs([[1, 2]])
    done, _ = await asyncio.wait({request}, timeout=0.1)
    assert not done
    request.cancel()
    reads = EngineGenerator(GeneratorConfig(), model_path="nowhere")  # negative control
    reads._engine.engine.started = DeadEngine()
    with pytest.raises(ProcessDied):
        await reads.generate(REQUEST)


class EngineThatEnds:
    """Its requests end by themselves as soon as they are told to, with a token or an error."""

    def __init__(self, *, fails):
        self.fails = fails
        self.told = asyncio.Event()

    async def sample(self, request, admitted):
        await self.told.wait()
        if self.fails:
            raise NoAnswer("too late")
        return [
            Sampled(
                token_ids=(7,), logprobs=(-1.0,), text="x", finish_reason="stop", weight_versions=()
            )
        ]

    async def abort(self, request_ids):
        self.told.set()


@pytest.mark.parametrize(("fails", "lengths"), [(False, [1]), (True, [])])
async def test_whoever_gives_up_a_request_that_just_ends_waits_for_nothing(fails, lengths):
    generator = EngineGenerator(GeneratorConfig(), model_path="nowhere")
    generator._engine = EngineThatEnds(fails=fails)
    request = asyncio.create_task(generator.generate(REQUEST))
    await asyncio.sleep(0)
    assert await asyncio.wait_for(generator.cancel("a"), timeout=60) == lengths
    (result,) = await asyncio.gather(request, return_exceptions=True)
    assert isinstance(result, NoAnswer) if fails else result[0].text == "x"


class EngineInPause:
    """It pauses until it is told to go on, as when requests are being stopped."""

    def __init__(self):
        self.go_on = asyncio.Event()

    async def pause_generation(self, *, mode, **kwargs):
        if mode == "keep":
            await self.go_on.wait()

    def shutdown(self):
        self.go_on.set()


async def test_a_member_that_leaves_during_a_push_is_infrastructure():
    """A smaller fleet was asked for while `begin_push` waited for the engine to pause."""
    generator = EngineGenerator(GeneratorConfig(), model_path="nowhere")
    generator._engine.engine.started = EngineInPause()
    push = asyncio.create_task(generator.begin_push(1))
    await asyncio.sleep(0)
    await generator.close()
    for verb in (lambda: push, generator.health, partial(generator.load, 1)):
        with pytest.raises(ProcessDied, match="this generator is closed"):
            await verb()
    await generator.close()  # nothing is left to close


class Child:
    """A finished completion as vLLM gives it."""

    def __init__(self, num_tokens, versions):
        self.token_ids = list(range(num_tokens))
        self.weight_versions = [
            SimpleNamespace(version=name, start=start, end=end) for name, start, end in versions
        ]


@pytest.mark.parametrize(
    ("num_tokens", "versions", "spans"),
    [
        (4, [("default", 0, 4)], [(0, 4, 0)]),
        (4, [("1", 0, 2), ("2", 2, 4)], [(0, 2, 1), (2, 4, 2)]),
        (4, [("1", 0, 2), ("2", 2, 6)], [(0, 2, 1), (2, 4, 2)]),  # a stop string cut two off
        (2, [("1", 0, 2), ("2", 2, 6)], [(0, 2, 1)]),  # and here all of version 2
        (3, [], [(0, 3, 7)]),
    ],
)
def test_spans_partition_the_tokens_that_are_left(num_tokens, versions, spans):
    pushes = EngineGenerator(GeneratorConfig(), model_path="nowhere")._pushes
    pushes.version = 7
    found = pushes.spans(Child(num_tokens, versions), pushes.enter("r1"))
    assert [(s.start, s.end, s.version) for s in found] == spans
