"""Generators and what trains, on one device by turns: who leaves before who comes."""

import asyncio

import pytest
from fakes import FakeGenerator, FakePublisher, seat, serving_fleet

from rlpost.control.fleet import Fleet
from rlpost.errors import GroupLost, ProcessDied, WeightPushError
from rlpost.rollout.signal import Signal
from rlpost.weights.bus import WeightBus
from rlpost.weights.protocol import BusConfig


class Device:
    """Refuses one side while the other is there."""

    def __init__(self) -> None:
        self.there: dict[str, str] = {}  # who -> side
        self.story: list[str] = []

    def come(self, who: str, side: str) -> None:
        others = [name for name, theirs in self.there.items() if theirs != side]
        assert not others, f"{who} comes, and {others} did not leave"
        self.there[who] = side

    def leave(self, who: str) -> None:
        self.there.pop(who, None)

    def note(self, what: str) -> None:
        self.story.append(what)


class Sleeper(FakeGenerator):
    """An engine on the device, from its boot on."""

    def __init__(self, name: str, device: Device, **options) -> None:
        super().__init__(**options)
        self.name, self.device = name, device
        device.come(name, "engines")

    async def _enter(self, verb):
        if verb in ("begin", "load", "logprobs"):
            self.device.come(self.name, "engines")
        self.device.note(f"{self.name} {verb}")
        await super()._enter(verb)

    async def sleep(self):
        await self._enter("sleep")
        self.device.leave(self.name)

    async def abort_push(self, version):
        self.device.come(self.name, "engines")
        return await super().abort_push(version)

    async def kill(self):
        await super().kill()
        self.device.leave(self.name)


class Trainer(FakePublisher):
    """It wakes by itself when it is asked something that needs its weights."""

    def __init__(self, device: Device, *, lost: bool = False) -> None:
        super().__init__()
        self.device, self.lost = device, lost

    async def stage(self, version, *, seats):
        self.device.come("trainer", "trained")
        self.device.note("trainer stage")
        if self.lost:
            raise GroupLost("trainer rank 0 is gone")
        return await super().stage(version, seats=seats)

    async def probe_logprobs(self, sequences):
        self.device.come("trainer", "trained")
        self.device.note("trainer logprobs")
        return await super().probe_logprobs(sequences)

    async def leave(self):
        self.device.note("trainer sleep")
        self.device.leave("trainer")


def make(device: Device, trainer: Trainer, generators, *, fleet: Fleet | None = None, **options):
    return WeightBus(
        trainer,
        fleet=fleet or serving_fleet(list(generators)),
        receivers=generators,
        seats=dict.fromkeys(generators, seat()),
        probe=[[1, 2, 3]],
        cfg=BusConfig(**{"exact": True, "timeout_s": 0.2, "attempts": 2, **options}),
        changed=Signal().wait,
        leave=trainer.leave,
    )


async def test_each_side_leaves_before_the_other_comes():
    device = Device()
    fleet = serving_fleet(["a"])
    bus = make(device, Trainer(device), {"a": Sleeper("a", device)}, fleet=fleet)
    await bus.publish()
    assert device.story == [
        "a sleep",
        "trainer stage",
        "trainer logprobs",
        "trainer sleep",
        "a begin",
        "a receive",
        "a load",
        "a logprobs",
        "a commit",
    ]
    assert fleet.serving() == ["a"]
    await bus.rest()
    await bus.rest()  # once is enough
    assert device.there == {} and fleet.stale() == ["a"]
    assert not bus.has_served and not await bus.catch_up("a"), "whoever trains has the device"
    await bus.publish()
    assert fleet.serving() == ["a"] and bus.has_served


async def test_without_turns_nobody_is_sent_away():
    """The negative control: the device sees that both are there."""
    device = Device()
    bus = make(device, Trainer(device), {"a": Sleeper("a", device)})
    bus._turns._leave = None
    with pytest.raises(AssertionError, match=r"trainer comes, and .* did not leave"):
        await bus.publish()
    await bus.rest()
    assert "a sleep" not in device.story


async def test_a_refused_push_gives_the_device_back_to_the_trainer():
    device = Device()
    generators = {"a": Sleeper("a", device), "b": Sleeper("b", device, flipped_loads=1)}
    fleet = serving_fleet(list(generators))
    report = await make(device, Trainer(device), generators, fleet=fleet, compare_every=1).publish()
    assert report.version == 2 and device.story.count("trainer stage") == 2
    assert fleet.serving() == ["a", "b"]


@pytest.mark.parametrize("verb", ["sleep", "load"])
async def test_one_that_hangs_is_killed_before_anybody_trains(verb):
    device = Device()
    generators = {"a": Sleeper("a", device), "b": Sleeper("b", device, hang=verb)}
    fleet = serving_fleet(list(generators))
    report = await make(device, Trainer(device), generators, fleet=fleet).publish()
    assert fleet.dead() == ["b"] and generators["b"].calls[-1] == "kill"
    assert report.version == (2 if verb == "load" else 1) and fleet.serving() == ["a"]


async def test_one_that_dies_asleep_comes_back_only_when_generators_have_the_device():
    class Dies(Sleeper):
        async def begin_push(self, version):
            raise ProcessDied("out of memory")

    device, signal = Device(), Signal()
    generators = {"a": Dies("a", device)}
    fleet = serving_fleet(["a"])
    bus = make(device, Trainer(device), generators, fleet=fleet, boot_timeout_s=60.0, attempts=3)
    bus._turns._changed = signal.wait

    async def supervise():
        while not fleet.dead() or bus.resting:
            await asyncio.sleep(0.01)
        device.leave("a")
        fleet.restarting("a")
        generators["a"] = Sleeper("a", device)  # asserts that the trainer has left
        fleet.booted("a")
        signal.notify()

    supervisor = asyncio.create_task(supervise())
    report = await bus.publish()
    await supervisor
    assert report.version == 2 and fleet.serving() == ["a"]


async def test_a_lost_trainer_leaves_generators_asleep():
    device = Device()
    generators = {"a": Sleeper("a", device)}
    bus = make(device, Trainer(device, lost=True), generators)
    with pytest.raises(GroupLost):
        await bus.publish()
    assert bus.resting and "abort" not in generators["a"].calls
    assert device.there == {"trainer": "trained"}


async def test_a_generator_that_boots_is_waited_for():
    device, signal = Device(), Signal()
    fleet = serving_fleet(["a"])
    fleet.add("b")
    generators = {"a": Sleeper("a", device), "b": Sleeper("b", device)}
    bus = make(device, Trainer(device), generators, fleet=fleet, boot_timeout_s=0.3)
    bus._turns._changed = signal.wait
    with pytest.raises(WeightPushError, match=r"not all that boot came up in 0\.3 s"):
        await bus.rest()
