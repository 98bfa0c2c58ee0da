"""The fleet is pinged, restarted, brought up to date and resized, with fake processes."""

import asyncio

import pytest
from fakes import FakeGenerator, FakePublisher

from rlpost.cluster.supervision import Supervisor
from rlpost.control.failures import Budget, FailureConfig
from rlpost.control.fleet import Fleet, Health
from rlpost.control.watchdog import Watchdog
from rlpost.errors import NoAnswer, ProcessDied, RunFailed, RunStuck
from rlpost.rollout.dispatch import Dispatcher
from rlpost.rollout.signal import Signal
from rlpost.weights.bus import WeightBus
from rlpost.weights.protocol import BusConfig
from rlpost.weights.transports.protocol import Seat


class Process(FakeGenerator):
    """A generator whose boot and health can be broken."""

    def __init__(self, *, boots: bool = True) -> None:
        super().__init__()
        self.boots = boots
        self.ill: Exception | None = None

    async def setup(self):
        if not self.boots:
            raise NoAnswer("no room")
        return await super().setup()

    async def health(self):
        if self.ill is not None:
            raise self.ill
        return await super().health()


class House:
    """A supervised fleet; ``spawned`` lists every process by name."""

    def __init__(self, names=("generator 0",), *, budget=64, boots=lambda n: True, wanted=None):
        self.spawned: list[tuple[str, Process]] = []
        self.generators: dict[str, Process] = {}
        self.wanted = wanted
        seats: dict[str, Seat] = {}
        signal = Signal()
        self.fleet = Fleet(list(names), missed_until_dead=2)
        failures = FailureConfig(ping_every_s=0.01, backoff_s=0.0)
        self.watchdog = Watchdog(stuck_after_s=1e9, now_s=0.0)

        def spawn(name):
            process = Process(boots=boots(len(self.spawned)))
            self.spawned.append((name, process))
            return process

        self.supervisor = Supervisor(
            self.fleet,
            self.generators,
            seats=seats,
            spawn=spawn,
            dispatcher=Dispatcher(self.fleet, self.generators, signal=signal),
            signal=signal,
            failures=failures,
            budget=Budget(budget, of="failures", field="failures.failures_in_a_row"),
            watchdog=self.watchdog,
            wanted=lambda: self.wanted,
        )
        self.bus = WeightBus(
            FakePublisher(),
            fleet=self.fleet,
            receivers=self.generators,
            seats=seats,
            probe=[[1, 2, 3]],
            cfg=BusConfig(exact=True, timeout_s=60.0),
            changed=signal.wait,
        )

    async def serve(self) -> asyncio.Task:
        await self.supervisor.boot()
        await self.bus.publish()
        return asyncio.create_task(self.supervisor.run(self.bus))

    async def until(self, condition) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("illness", [ProcessDied("killed"), NoAnswer("stopped")])
async def test_a_dead_or_hung_generator_is_killed_restarted_and_synced(illness):
    house = House()
    guard = await house.serve()
    first = house.generators["generator 0"]
    first.ill = illness
    await house.until(lambda: len(house.spawned) == 2 and house.fleet.serving())
    assert first.calls[-1] == "kill"
    second = house.generators["generator 0"]
    assert second is not first and second.version == 1
    assert "commit" in second.calls, "it serves only after a completed push"
    guard.cancel()


async def test_who_loads_weights_is_not_expected_to_answer():
    house = House()
    guard = await house.serve()
    only = house.generators["generator 0"]
    only.ill = NoAnswer("busy")
    house.bus.engaged = {"generator 0"}
    await asyncio.sleep(0.1)
    assert house.fleet.serving() == ["generator 0"] and len(house.spawned) == 1
    house.bus.engaged = set()  # negative control
    await house.until(lambda: len(house.spawned) == 2)
    guard.cancel()


async def test_one_missed_ping_is_forgiven():
    house = House()
    guard = await house.serve()
    only = house.generators["generator 0"]
    only.ill = NoAnswer("busy")
    await house.until(lambda: house.fleet.members["generator 0"].health is Health.suspect)
    only.ill = None
    await house.until(lambda: house.fleet.serving() == ["generator 0"])
    assert len(house.spawned) == 1
    guard.cancel()


async def test_a_process_that_does_not_boot_is_tried_again_until_the_budget_ends():
    house = House(boots=lambda n: n in (0, 3))
    guard = await house.serve()
    house.generators["generator 0"].ill = ProcessDied("killed")
    await house.until(lambda: len(house.spawned) == 4 and house.fleet.serving())
    guard.cancel()
    hopeless = House(boots=lambda n: n == 0, budget=3)
    guard = await hopeless.serve()
    hopeless.generators["generator 0"].ill = ProcessDied("killed")
    with pytest.raises(RunFailed, match=r"failures_in_a_row=3"):
        await asyncio.wait_for(guard, 60)


async def test_generators_join_and_leave():
    house = House()
    guard = await house.serve()
    house.wanted = 3
    await house.until(lambda: len(house.fleet.serving()) == 3)
    leaving = house.generators["generator 2"]
    house.wanted = 1
    await house.until(lambda: list(house.generators) == ["generator 0"])
    assert house.fleet.serving() == ["generator 0"] and "close" in leaving.calls
    guard.cancel()


async def test_a_member_without_room_costs_nothing():
    """The request is met as far as there is room; it is tried again when the request changes."""
    house = House(boots=lambda n: n < 2, budget=2)
    guard = await house.serve()
    house.wanted = 8
    await house.until(lambda: len(house.spawned) == 8 and len(house.fleet.members) == 2)
    await asyncio.sleep(0.1)
    assert len(house.spawned) == 8 and not guard.done()
    assert house.fleet.serving() == ["generator 0", "generator 1"]
    house.wanted = 3
    await house.until(lambda: len(house.spawned) == 9 and len(house.fleet.members) == 2)
    assert not guard.done()
    guard.cancel()


async def test_who_shall_leave_is_not_restarted():
    house = House(["generator 0", "generator 1"], boots=lambda n: n < 2, budget=2)
    guard = await house.serve()
    house.wanted = 1
    house.fleet.died("generator 1", incarnation=0, reason="killed")
    await house.until(lambda: list(house.generators) == ["generator 0"])
    await asyncio.sleep(0.1)
    assert len(house.spawned) == 2 and not guard.done()
    assert list(house.fleet.members) == ["generator 0"]
    guard.cancel()


async def test_a_run_without_progress_ends():
    house = House()
    guard = await house.serve()
    house.watchdog._stuck_after_s = -1.0
    with pytest.raises(RunStuck, match="nothing was finished"):
        await asyncio.wait_for(guard, 60)
