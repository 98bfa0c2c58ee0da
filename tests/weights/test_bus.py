"""The transaction, driven with fakes: what commits, what aborts, who is named."""

import asyncio
from dataclasses import replace

import pytest
from fakes import FakeGenerator, FakePublisher, seat, serving_fleet

from rlpost.control.fleet import Health
from rlpost.errors import GroupLost, PushEnded, WeightPushError
from rlpost.rollout.signal import Signal
from rlpost.weights.bus import WeightBus
from rlpost.weights.probe_answers import logprob_difference
from rlpost.weights.protocol import BusConfig


def make_bus(publisher, generators, *, fleet=None, seats=None, **options) -> WeightBus:
    return WeightBus(
        publisher,
        fleet=fleet or serving_fleet(list(generators)),
        receivers=generators,
        seats=seats or dict.fromkeys(generators, seat()),
        probe=[[1, 2, 3], [4, 5]],
        cfg=BusConfig(**{"exact": True, "timeout_s": 2.0, "attempts": 1, **options}),
        changed=Signal().wait,
    )


async def test_commits_everywhere_and_reports():
    generators = {"a": FakeGenerator(), "b": FakeGenerator()}
    publisher = FakePublisher()
    bus = make_bus(publisher, generators)
    report = await bus.publish()
    assert report.version == 1 and report.probe_logprob_diff_max == 0.0
    assert [g.version for g in generators.values()] == [1, 1]
    assert generators["a"].calls == ["begin", "receive", "load", "logprobs", "commit"]
    assert publisher.released == [], "late joiners fetch the newest version"
    await bus.publish()
    assert publisher.released == [1]


async def test_unfaithful_load_is_refused_everywhere():
    """The probe is what catches it: with a loose bound the same push commits."""
    generators = {"good": FakeGenerator(), "bad": FakeGenerator(broken_load=True)}
    bus = make_bus(FakePublisher(), generators)
    with pytest.raises(WeightPushError, match="probe of bad differs"):
        await bus.publish()
    assert [g.version for g in generators.values()] == [0, 0]
    assert all(g.calls[-1] == "abort" for g in generators.values())
    loose = {"bad": FakeGenerator(broken_load=True)}
    await make_bus(FakePublisher(), loose, max_diff=1.0).publish()
    assert loose["bad"].version == 1


def three(**flipped) -> dict[str, FakeGenerator]:
    return {name: FakeGenerator(flipped_loads=flipped.get(name, 0)) for name in "abc"}


async def test_a_wrong_bit_below_the_bound_is_found_and_pushed_again(caplog):
    generators = three(b=1)
    bus = make_bus(FakePublisher(), generators, compare_every=3, attempts=2)
    report = await bus.publish()
    assert report.version == 2 and not generators["b"].is_flipped
    assert "b: its kernels differ from those of the others in worker [0]" in caplog.text
    assert report.metrics()["weights/engines_compared"] == 3
    assert report.metrics()["weights/engines_differed"] == 1
    blind = three(b=1)
    await make_bus(FakePublisher(), blind, attempts=2).publish()
    assert blind["b"].version == 1 and blind["b"].is_flipped, "the probe does not see it"


async def test_engines_are_compared_every_so_many_pushes():
    generators = three()
    bus = make_bus(FakePublisher(), generators, compare_every=3)
    compared = [(await bus.publish()).compared for _ in range(5)]
    assert compared == [3, 0, 0, 3, 0]
    alone = {"a": FakeGenerator()}
    assert (await make_bus(FakePublisher(), alone, compare_every=1).publish()).compared == 0
    assert "digest" not in alone["a"].calls


class Again(FakePublisher):
    """It can announce its payload again."""

    async def announce_again(self, *, seats):
        return await self.stage(self.staged[-1], seats=seats)


async def test_who_loads_wrongly_twice_is_replaced_and_compared_when_it_joins():
    generators = three(b=3)
    fleet = serving_fleet(list(generators))
    bus = make_bus(Again(), generators, fleet=fleet, compare_every=3, attempts=3)
    report = await bus.publish()
    assert fleet.dead() == ["b"] and report.compared == 2 and report.differed == 2
    for right in (False, True):  # its third load is wrong, too
        fleet.restarting("b")
        fleet.booted("b")
        assert await bus.catch_up("b") is right
        assert fleet.dead() == ([] if right else ["b"])


async def test_damaged_payload_is_refused_before_loading():
    generator = FakeGenerator()
    with pytest.raises(WeightPushError, match="checksum"):
        await make_bus(FakePublisher(damaged=True), {"g": generator}).publish()
    assert "load" not in generator.calls and generator.version == 0


async def test_versions_are_never_reused_after_an_abort():
    publisher = FakePublisher(damaged=True)
    bus = make_bus(publisher, {"g": FakeGenerator()})
    with pytest.raises(WeightPushError):
        await bus.publish()
    publisher.damaged = False
    assert (await bus.publish()).version == 2


PHASES = {
    "begin": "begin",
    "receive": "transfer",
    "load": "load",
    "logprobs": "probe",
    "digest": "comparison",
    "commit": "commit",
}


@pytest.mark.parametrize("phase", PHASES)
async def test_a_deadline_names_who_is_missing(phase):
    generators = {"quick": FakeGenerator(), "slow one": FakeGenerator(hang=phase)}
    fleet = serving_fleet(list(generators))
    bus = make_bus(FakePublisher(), generators, fleet=fleet, timeout_s=0.2, compare_every=1)
    if phase != "commit":
        with pytest.raises(WeightPushError, match=f"slow one did not finish {PHASES[phase]}"):
            await bus.publish()
        assert fleet.members["quick"].version == 0
    else:  # everyone had agreed: the version stands
        await bus.publish()
        assert fleet.serving() == ["quick"]
    assert fleet.dead() == ["slow one"]


async def test_the_push_is_repeated_with_the_survivors():
    generators = {"quick": FakeGenerator(), "slow one": FakeGenerator(hang="load")}
    fleet = serving_fleet(list(generators))
    report = await make_bus(
        FakePublisher(), generators, fleet=fleet, timeout_s=0.2, attempts=2
    ).publish()
    assert report.version == 2 and generators["quick"].version == 2
    assert fleet.serving() == ["quick"] and fleet.dead() == ["slow one"]


async def test_a_late_joiner_catches_up_alone():
    generators = {"a": FakeGenerator(), "b": FakeGenerator()}
    fleet = serving_fleet(["a"])
    bus = make_bus(FakePublisher(), generators, fleet=fleet)
    fleet.add("b")
    assert not await bus.catch_up("b"), "nothing was pushed yet"
    await bus.publish()
    fleet.booted("b")
    before = list(generators["a"].calls)
    assert await bus.catch_up("b")
    assert generators["b"].version == 1 and fleet.serving() == ["a", "b"]
    assert generators["a"].calls == before


class Overwritten(FakeGenerator):
    """Its host keeps no payload to go back to."""

    async def abort_push(self, version):
        self.calls.append("abort")
        if self.loaded == version:
            raise WeightPushError("no committed version to go back to; push one")
        return self.version


async def test_who_cannot_go_back_takes_part_in_the_next_attempt():
    generators = {"a": Overwritten(), "slow one": FakeGenerator(hang="logprobs")}
    fleet = serving_fleet(list(generators))
    bus = make_bus(FakePublisher(), generators, fleet=fleet, timeout_s=0.2, attempts=2)
    await bus.publish()
    assert generators["a"].calls.count("abort") == 1
    assert fleet.serving() == ["a"] and generators["a"].version == 2
    assert fleet.dead() == ["slow one"]


async def test_who_cannot_go_back_catches_up_and_serves_nothing_else_before():
    generator, publisher = Overwritten(), FakePublisher()
    fleet = serving_fleet(["a"])
    bus = make_bus(publisher, {"a": generator}, fleet=fleet)
    await bus.publish()
    generator._broken_load = True
    with pytest.raises(WeightPushError, match="probe of a differs"):
        await bus.publish()
    assert fleet.stale() == ["a"] and not fleet.dead() and not fleet.serving()
    generator._broken_load = False
    assert await bus.catch_up("a")
    assert fleet.serving() == ["a"] and generator.version == generator.loaded == 1


async def test_nobody_catches_up_with_what_was_refused():
    class Across(FakePublisher):
        async def stage(self, version, *, seats):
            return replace(await super().stage(version, seats=seats), repeatable=False)

        async def announce_again(self, *, seats):
            locator = await super().stage(self.staged[-1], seats=seats)
            return replace(locator, repeatable=False)

    generator = Overwritten()
    fleet = serving_fleet(["a"])
    bus = make_bus(Across(), {"a": generator}, fleet=fleet)
    await bus.publish()
    generator._broken_load = True
    with pytest.raises(WeightPushError, match="probe of a differs"):
        await bus.publish()
    assert not await bus.catch_up("a"), "the trainer holds version 2 by now"
    assert fleet.stale() == ["a"]
    generator._broken_load = False
    assert (await bus.publish()).version == 3 and fleet.serving() == ["a"]


async def test_a_catch_up_waits_for_a_busy_trainer_and_no_longer():
    class Busy(FakePublisher):
        busy_s = 0.0

        async def stage(self, version, *, seats):
            return replace(await super().stage(version, seats=seats), repeatable=False)

        async def announce_again(self, *, seats):
            return await self.stage(self.staged[-1], seats=seats)

        async def send(self):
            await asyncio.sleep(self.busy_s)

    fleet, generators, publisher = serving_fleet(["a"]), {"a": FakeGenerator()}, Busy()
    bus = make_bus(publisher, generators, fleet=fleet, timeout_s=0.1, busy_s=0.6)
    await bus.publish()
    fleet.out_of_sync("a")
    publisher.busy_s = 0.5  # of a step, longer than the phase
    assert await bus.catch_up("a") and fleet.serving() == ["a"]
    fleet.out_of_sync("a")
    publisher.busy_s = 60.0
    with pytest.raises(GroupLost, match=r"trainer did not finish transfer in 0\.9 s"):
        await bus.catch_up("a")
    assert generators["a"].calls[-1] == "abort"  # it is left in no push that nobody ends


@pytest.mark.parametrize("when", ["before it is announced", "while it is sent"])
async def test_a_late_joiner_waits_for_the_next_push_if_the_trainer_has_learned(when):
    class Live(FakePublisher):
        changed = False

        async def stage(self, version, *, seats):
            self.changed = False
            return replace(await super().stage(version, seats=seats), repeatable=False, live=True)

        async def announce_again(self, *, seats):
            if self.changed:
                return None
            self.changed = when == "while it is sent" and self.sent_again
            locator = await super().stage(self.staged[-1], seats=seats)
            return replace(locator, repeatable=False, live=True)

        async def send(self):
            if self.changed:
                raise WeightPushError("the trainer has learned since")
            return 0.25

        sent_again = True

    publisher, generators = Live(), {"a": FakeGenerator(), "b": FakeGenerator()}
    fleet = serving_fleet(["a"])
    bus = make_bus(publisher, generators, fleet=fleet)
    assert (await bus.publish()).merge_error == 0.25
    fleet.add("b")
    fleet.booted("b")
    publisher.changed = when == "before it is announced"
    assert not await bus.catch_up("b")
    assert fleet.stale() == ["b"] and not fleet.dead()  # nobody is to blame
    assert generators["b"].calls[-1:] == (["abort"] if when == "while it is sent" else [])
    publisher.sent_again = publisher.changed = False
    assert await bus.catch_up("b") and fleet.serving() == ["a", "b"]


async def test_a_late_joiner_elsewhere_has_the_payload_announced_for_its_host():
    class Here(FakePublisher):
        async def stage(self, version, *, seats):
            return replace(await super().stage(version, seats=seats), memory="here")

        async def announce_again(self, *, seats):
            announced.append(list(seats))
            return await self.stage(self.staged[-1], seats=seats)

    announced = []
    generators = {"a": FakeGenerator(), "b": FakeGenerator(), "c": FakeGenerator()}
    fleet = serving_fleet(["a"])
    seats = {"a": seat(), "b": seat(), "c": seat("elsewhere", num_workers=2)}
    bus = make_bus(Here(), generators, fleet=fleet, seats=seats)
    await bus.publish()
    for name in ("b", "c"):
        fleet.add(name)
        fleet.booted(name)
        assert await bus.catch_up(name)
    assert announced == [[seats["c"]]]


async def test_a_process_that_took_the_name_meanwhile_is_not_in_sync():
    class RestartsDuringCommit(FakeGenerator):
        async def commit_push(self, version):
            fleet.died("a", incarnation=0, reason="killed")
            fleet.restarting("a")
            fleet.booted("a")

    generators = {"a": RestartsDuringCommit()}
    fleet = serving_fleet(["a"])
    await make_bus(FakePublisher(), generators, fleet=fleet).publish()
    assert fleet.members["a"].health is Health.stale


async def test_a_lost_trainer_is_told_from_a_lost_generator():
    class Gone(FakePublisher):
        async def send(self):
            raise GroupLost("trainer rank 0 is gone")

    generators = {"a": FakeGenerator()}
    fleet = serving_fleet(["a"], version=0)
    with pytest.raises(GroupLost):
        await make_bus(Gone(), generators, fleet=fleet).publish()
    assert not fleet.dead()


def test_nan_counts_as_infinite_difference():
    assert logprob_difference([[float("nan"), 0.0]], [[0.0, 0.0]])[1] == float("inf")
    assert logprob_difference([[1.0, 2.0]], [[1.5, 2.0]]) == (0.25, 0.5)


def test_the_bound_follows_the_precision_unless_it_is_given():
    assert BusConfig(exact=True).bound == 1e-3
    assert BusConfig(exact=False).bound < BusConfig(exact=False, quantized=True).bound
    assert BusConfig(exact=False, quantized=True, max_diff=0.05).bound == 0.05


async def test_who_was_only_told_of_a_failure_is_not_replaced():
    """One engine that refuses a stream twice ends it for all who take part."""

    class Fails(FakeGenerator):
        error: WeightPushError

        async def receive(self, locator, *, first_rank):
            raise self.error

    generators = {name: Fails() for name in "abc"}
    for name, generator in generators.items():
        why = f"{name}: no such layer"
        generator.error = WeightPushError(why) if name == "b" else PushEnded(why)
    fleet = serving_fleet(list(generators))
    with pytest.raises(WeightPushError, match="refused, 2 attempts"):
        await make_bus(FakePublisher(), generators, fleet=fleet, attempts=2).publish()
    assert fleet.dead() == ["b"]
    fleet = serving_fleet(list(generators))
    with pytest.raises(WeightPushError, match="refused, 1 attempts"):
        await make_bus(FakePublisher(), generators, fleet=fleet).publish()
    assert not fleet.dead()  # it may have been luck


async def test_a_sender_that_fails_costs_no_generator():
    class Breaks(FakePublisher):
        async def stage(self, version, *, seats):
            return replace(await super().stage(version, seats=seats), repeatable=False)

        async def send(self):
            raise WeightPushError("no room for two buckets")

    generators = {"a": FakeGenerator(), "b": FakeGenerator()}
    fleet = serving_fleet(list(generators))
    with pytest.raises(WeightPushError, match="no room for two buckets"):
        await make_bus(Breaks(), generators, fleet=fleet, attempts=3).publish()
    assert fleet.stale() == ["a", "b"] and not fleet.dead()


@pytest.mark.parametrize("when", ["at first", "once it has failed"])
async def test_a_catch_up_that_cannot_be_announced_is_tried_later(when):
    class Full(FakePublisher):
        room = True

        async def stage(self, version, *, seats):
            return replace(await super().stage(version, seats=seats), repeatable=False)

        async def announce_again(self, *, seats):
            if not self.room:
                raise WeightPushError("shared memory has no room for two buckets")
            self.room = when == "at first"
            return await self.stage(self.staged[-1], seats=seats)

        async def send(self):
            if not self.room:
                raise WeightPushError("a receiver is gone")

    publisher, generators = Full(), {"a": FakeGenerator()}
    fleet = serving_fleet(["a"])
    bus = make_bus(publisher, generators, fleet=fleet)
    await bus.publish()
    fleet.out_of_sync("a")
    publisher.room = when != "at first"
    assert not await bus.catch_up("a")
    assert fleet.stale() == ["a"] and not fleet.dead()
    publisher.room, when = True, "at first"
    assert await bus.catch_up("a") and fleet.serving() == ["a"]
