"""Versions of adapters side by side: who samples from which, and when one leaves the engine.

With a living engine it is tested in tests/system/.
"""

import asyncio
from types import SimpleNamespace

import pytest

from rlpost.errors import WeightPushError
from rlpost.rollout.adapter_pushes import AdapterPushes
from rlpost.rollout.generator_config import AdapterCapacity
from rlpost.weights.adapter import tensor_name
from rlpost.weights.manifest import PushManifest, TensorEntry
from rlpost.weights.transports.protocol import Locator

LAYER = "model.layers.0.self_attn.q_proj"
CONFIG = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}


class Holder:
    """An engine that ends, as vLLM does, when a request names an adapter that it does not hold."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held: set[int] = set()
        self.received: int | None = None
        self.deaf = 0  # so many aborts come before the request has arrived
        self.running: dict[str, asyncio.Event] = {}

    async def receive_adapter(self, locator, *, first_rank):
        self.received = locator.manifest["version"]

    async def load_adapter(self, version, *, keep):
        assert self.received == version and set(keep) <= self.held
        self.held = {*keep, version}
        assert len(self.held) <= self.capacity

    async def keep_adapters(self, keep):
        assert set(keep) <= self.held
        self.held = set(keep)

    async def abort(self, request_ids):
        if self.deaf:
            self.deaf -= 1
            return
        for request_id in request_ids:
            self.running[request_id].set()


class Requests:
    """Requests that go on until somebody aborts them."""

    def __init__(self, pushes: AdapterPushes, holder: Holder) -> None:
        self.pushes, self.holder = pushes, holder

    def start(self, request_id: str, *, probes: bool = False) -> "asyncio.Task[int]":
        """Return what ends with the version that was sampled."""
        entry = self.pushes.enter(request_id, probes=probes)
        ended = self.holder.running[request_id] = asyncio.Event()

        async def run() -> int:
            try:
                await ended.wait()
                assert entry.adapter is None or entry.adapter in self.holder.held
                return entry.version
            finally:
                self.pushes.leave(entry)

        return asyncio.create_task(run())


def of(capacity: int) -> tuple[AdapterPushes, Holder, Requests]:
    holder = Holder(capacity)
    pushes = AdapterPushes(holder, capacity=capacity)
    pushes.expect({f"{LAYER}.weight": (8, 6)})
    return pushes, holder, Requests(pushes, holder)


def locator(version: int, *, adapter=CONFIG, depth: int = 6) -> Locator:
    shapes = {tensor_name(LAYER, "A"): (2, depth), tensor_name(LAYER, "B"): (8, 2)}
    entries = tuple(
        TensorEntry(name=n, dtype="float32", shape=s, offset=0, size_bytes=48, checksum="")
        for n, s in shapes.items()
    )
    manifest = PushManifest(version=version, entries=entries, adapter=adapter)
    return Locator(transport="here", manifest=manifest.to_dict())


async def loaded(pushes: AdapterPushes, version: int) -> None:
    await pushes.begin(version)
    await pushes.receive(locator(version), first_rank=1)
    await pushes.load(version)


async def pushed(pushes: AdapterPushes, version: int) -> None:
    await loaded(pushes, version)
    await pushes.commit(version)


async def test_a_version_stays_while_a_request_holds_it():
    pushes, holder, requests = of(3)
    before = requests.start("before any push")
    await pushed(pushes, 1)
    old = requests.start("old")
    await pushed(pushes, 2)
    await pushed(pushes, 3)
    assert holder.held == {1, 2, 3}  # 2 was what requests would have sampled from until then
    for request_id in ("before any push", "old"):
        holder.running[request_id].set()
    assert [await before, await old] == [0, 1]
    await pushed(pushes, 4)
    assert holder.held == {3, 4}


async def test_only_probes_sample_from_what_is_not_committed():
    pushes, _, _ = of(3)
    await pushed(pushes, 1)
    await loaded(pushes, 2)
    entries = [pushes.enter(name, probes=name == "probe") for name in ("request", "probe")]
    assert [entry.version for entry in entries] == [1, 2]
    assert [entry.salt for entry in entries] == ["v1", "v2"]
    for entry in entries:
        pushes.leave(entry)
    await pushes.commit(2)
    assert pushes.enter("next").version == pushes.version == 2


async def test_an_abort_ends_the_probe_and_nothing_else():
    pushes, holder, requests = of(3)
    await pushed(pushes, 1)
    running = requests.start("running")
    await loaded(pushes, 2)
    probe = requests.start("probe", probes=True)
    assert await pushes.abort(2) == 1 == pushes.version
    assert probe.done() and not running.done() and holder.held == {1}
    assert await pushes.abort(2) == 1  # there is nothing left to undo
    await pushed(pushes, 3)
    holder.running["running"].set()
    assert await running == 1


async def test_what_was_never_undone_is_undone_by_the_next_push():
    pushes, holder, _ = of(2)
    await pushed(pushes, 1)
    await loaded(pushes, 2)
    await pushed(pushes, 3)
    assert holder.held == {1, 3} and pushes.version == 3


@pytest.mark.parametrize("deaf", [0, 2])
async def test_the_oldest_requests_make_room(deaf):
    """Also when they are still on their way into the engine."""
    pushes, holder, requests = of(3)
    running = []
    for version in (1, 2, 3):
        await pushed(pushes, version)
        running.append(requests.start(f"r{version}"))
    holder.deaf = deaf
    await pushed(pushes, 4)
    assert await running[0] == 1
    assert holder.held == {2, 3, 4} and not running[1].done()
    for request_id in ("r2", "r3"):
        holder.running[request_id].set()
    assert await asyncio.gather(*running[1:]) == [2, 3]


async def test_a_request_that_is_cancelled_gives_its_version_up():
    pushes, holder, requests = of(3)
    await pushed(pushes, 1)
    running = requests.start("cancelled")
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await pushed(pushes, 2)
    await pushed(pushes, 3)
    assert holder.held == {2, 3}


async def test_a_response_has_the_version_that_it_began_with():
    pushes, _, _ = of(3)
    await pushed(pushes, 1)
    entry = pushes.enter("r1")
    await pushed(pushes, 2)
    child = SimpleNamespace(token_ids=[5, 6, 7], weight_versions=None)
    assert [(s.start, s.end, s.version) for s in pushes.spans(child, entry)] == [(0, 3, 1)]
    assert pushes.spans(SimpleNamespace(token_ids=[]), entry) == ()


async def test_other_payloads_and_older_versions_are_refused():
    pushes, _, _ = of(3)
    await pushed(pushes, 5)
    with pytest.raises(WeightPushError, match="version 5 is not newer than 5"):
        await pushes.begin(5)
    await pushes.begin(6)
    with pytest.raises(WeightPushError, match="is a whole model"):
        await pushes.receive(locator(6, adapter=None), first_rank=1)
    with pytest.raises(WeightPushError, match="lora_A"):
        await pushes.receive(locator(6, depth=7), first_rank=1)
    with pytest.raises(WeightPushError, match="was not loaded"):
        await pushes.commit(6)
    assert pushes.version == 5


def test_room_is_for_what_may_be_trained_on_and_one_more():
    assert AdapterCapacity.of(rank=16, max_staleness=0).versions == 2
    assert AdapterCapacity.of(rank=16, max_staleness=2).versions == 4
