"""The fleet: only a healthy member serves, and only a completed push makes it healthy."""

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpost.control.fleet import Fleet, Health

A, B = "generator 0", "generator 1"


def serving_fleet(*names, kind=Fleet):
    fleet = kind(list(names))
    for name in names:
        fleet.booted(name)
        fleet.synced(name, incarnation=0, version=1)
    return fleet


# -- by hand ------------------------------------------------------------------------------------


def test_a_member_serves_after_its_process_is_up_and_synced():
    fleet = Fleet([A])
    assert (fleet.serving(), fleet.pingable(), fleet.syncable()) == ([], [], {})
    fleet.booted(A)
    assert (fleet.serving(), fleet.stale(), fleet.pingable()) == ([], [A], [A])
    assert fleet.syncable() == {A: 0}
    assert fleet.synced(A, incarnation=0, version=1)
    assert (fleet.serving(), fleet.stale()) == ([A], [])
    assert fleet.synced(A, incarnation=0, version=2)


def test_a_process_that_is_not_up_cannot_become_healthy():
    fleet = Fleet([A])
    assert not fleet.synced(A, incarnation=0, version=1)
    fleet.failed_to_boot(A, "no memory")
    assert not fleet.synced(A, incarnation=0, version=1)
    assert (fleet.serving(), fleet.dead()) == ([], [A])


def test_a_suspect_takes_no_requests_until_it_answers():
    fleet = serving_fleet(A, B)
    fleet.missed(A, incarnation=0, reason="ping")
    assert (fleet.serving(), fleet.pingable(), fleet.syncable()) == ([B], [A, B], {B: 0})
    fleet.answered(A, incarnation=0)
    assert fleet.serving() == [A, B]


def test_a_suspect_that_a_push_passed_by_needs_a_push_and_not_an_answer():
    fleet = serving_fleet(A, B)
    fleet.missed(A, incarnation=0, reason="ping")
    assert fleet.synced(B, incarnation=0, version=2)
    assert fleet.behind(2) == [A]
    fleet.out_of_sync(A)
    fleet.answered(A, incarnation=0)
    assert (fleet.serving(), fleet.stale(), fleet.behind(2)) == ([B], [A], [])
    assert fleet.synced(A, incarnation=0, version=2)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_missed_pings_in_a_row_kill_and_an_answer_starts_the_count_anew(limit):
    fleet = Fleet([A], missed_until_dead=limit)
    fleet.booted(A)
    fleet.synced(A, incarnation=0, version=1)
    for _ in range(2):
        for _ in range(limit - 1):
            fleet.missed(A, incarnation=0, reason="ping")
        fleet.answered(A, incarnation=0)
        assert fleet.serving() == [A]
    for _ in range(limit):
        assert fleet.dead() == []
        fleet.missed(A, incarnation=0, reason="ping")
    assert fleet.dead() == [A]
    fleet.answered(A, incarnation=0)
    assert fleet.dead() == [A]  # it is killed now, whatever it says


def test_a_stale_member_can_miss_pings_too():
    fleet = Fleet([A], missed_until_dead=2)
    fleet.booted(A)
    fleet.missed(A, incarnation=0, reason="ping")
    assert fleet.stale() == [A]  # not suspect: it must not serve once it answers
    fleet.answered(A, incarnation=0)
    assert fleet.stale() == [A]
    for _ in range(2):
        fleet.missed(A, incarnation=0, reason="ping")
    assert fleet.dead() == [A]


def test_a_restart_starts_a_new_incarnation_without_a_past():
    fleet = serving_fleet(A)
    fleet.missed(A, incarnation=0, reason="ping")
    fleet.died(A, incarnation=0, reason="exit code 9")
    assert fleet.restarting(A) == 1
    assert fleet.restarting(A) == 2  # the first new process did not even start
    member = fleet.members[A]
    assert (member.health, member.version, member.missed) == (Health.restarting, 0, 0)
    assert member.restarts == 2
    assert "restarting, version 0, 2 restarts (exit code 9)" in fleet.describe()


def test_a_process_that_runs_is_not_restarted():
    fleet = serving_fleet(A)
    with pytest.raises(AssertionError):
        fleet.restarting(A)


class SameName(Fleet):
    """Broken: whoever has the name is meant."""

    def _current(self, name, incarnation):
        return self.members.get(name)


@pytest.mark.parametrize(("kind", "serving"), [(Fleet, []), (SameName, [A])])
def test_a_push_that_began_before_a_restart_does_not_make_the_new_process_healthy(kind, serving):
    fleet = serving_fleet(A, kind=kind)
    ticket = fleet.syncable()
    fleet.died(A, incarnation=0, reason="killed")
    fleet.restarting(A)
    fleet.booted(A)
    fleet.synced(A, incarnation=ticket[A], version=2)
    assert fleet.serving() == serving


@pytest.mark.parametrize(
    "late",
    [
        lambda fleet: fleet.died(A, incarnation=0, reason="killed"),
        lambda fleet: fleet.missed(A, incarnation=0, reason="ping"),
        lambda fleet: fleet.synced(A, incarnation=0, version=7),
    ],
)
@pytest.mark.parametrize(("kind", "harmless"), [(Fleet, True), (SameName, False)])
def test_late_news_of_the_process_before_do_not_concern_the_new_one(kind, harmless, late):
    fleet = serving_fleet(A, kind=kind)
    fleet.died(A, incarnation=0, reason="killed")
    fleet.synced(A, incarnation=0, version=1)  # commits although it died: still dead
    incarnation = fleet.restarting(A)
    fleet.booted(A)
    fleet.synced(A, incarnation=incarnation, version=2)
    before = fleet.describe()
    late(fleet)
    assert (fleet.describe() == before) == harmless


class NameIsForgotten(Fleet):
    """Broken: a name that comes back counts its incarnations from 0."""

    def remove(self, name):
        super().remove(name)
        del self._left[name]


@pytest.mark.parametrize(("kind", "serving"), [(Fleet, []), (NameIsForgotten, [A])])
def test_a_name_that_comes_back_is_another_incarnation(kind, serving):
    fleet = serving_fleet(A, kind=kind)
    ticket = fleet.syncable()
    fleet.remove(A)
    fleet.add(A)
    fleet.booted(A)
    fleet.synced(A, incarnation=ticket[A], version=2)
    assert fleet.serving() == serving


def test_news_of_a_member_that_left_are_ignored():
    fleet = serving_fleet(A, B)
    fleet.remove(A)
    fleet.answered(A, incarnation=0)
    fleet.missed(A, incarnation=0, reason="ping")
    fleet.died(A, incarnation=0, reason="killed")
    fleet.out_of_sync(A)
    fleet.failed_to_boot(A, "no memory")
    assert not fleet.synced(A, incarnation=0, version=2)
    assert fleet.serving() == [B]


# -- any sequence of events ----------------------------------------------------------------------

MISSED_UNTIL_DEAD = 2

SERVES_WHAT_IT_SYNCED = "a member serves what its own process synced, and that is the newest"
ONLY_HEALTHY = "only healthy members serve"
SUSPECT = "suspect means: it missed pings, and too few to be dead"
DEAD = "dead after so many missed pings in a row, and not before"
LATE = "news of another process change nothing"


@dataclass(eq=False)
class Process:
    """What really runs under a name."""

    name: str
    incarnation: int  # as the fleet calls it
    weights: int = 0  # version it finished syncing
    missed: int = 0  # pings in a row


class World:
    """Processes come, die and answer late; laws are asserted after every event."""

    def __init__(self, seed, kind):
        self.rng = random.Random(seed)
        self.fleet = kind(["a", "b"], missed_until_dead=MISSED_UNTIL_DEAD)
        self.processes = {name: Process(name, 0) for name in ("a", "b")}
        self.version = 0  # newest that was pushed
        self.push = []  # processes that take part
        self.pings = []  # processes that were asked

    def event(self):
        name = self.rng.choice("abc")
        member = self.fleet.members.get(name)
        if self.push and self.rng.random() < 0.3:
            self.end_push()
        elif self.pings and self.rng.random() < 0.3:
            self.end_ping(self.pings.pop(self.rng.randrange(len(self.pings))))
        elif member is None:
            self.fleet.add(name)
            self.processes[name] = Process(name, self.fleet.members[name].incarnation)
        elif self.rng.random() < 0.05:
            self.fleet.remove(name)
            del self.processes[name]
        elif member.health is Health.dead:
            self.processes[name] = Process(name, self.fleet.restarting(name))
        elif member.health is Health.restarting and self.rng.random() < 0.2:
            self.fleet.failed_to_boot(name, "no memory")
        elif member.health is Health.restarting:
            self.fleet.booted(name)
        elif not self.push and self.rng.random() < 0.5:
            self.push = [self.processes[name] for name in self.fleet.syncable()]
        else:
            self.pings.append(self.processes[name])
        self.look()

    def end_push(self):
        if self.rng.random() < 0.7:  # else it is aborted
            self.version += 1
            for process in self.push:
                process.weights, process.missed = self.version, 0
                self.fleet.synced(
                    process.name, incarnation=process.incarnation, version=self.version
                )
            for name in self.fleet.behind(self.version):
                self.fleet.out_of_sync(name)
        self.push = []

    def end_ping(self, process):
        fleet, about = self.fleet, {"incarnation": process.incarnation}
        before = fleet.describe(), self.is_dead(process.name)
        kind = self.rng.choice(["answered", "answered", "missed", "missed", "died"])
        if kind == "answered":
            fleet.answered(process.name, **about)
            process.missed = 0
        elif kind == "missed":
            fleet.missed(process.name, reason="ping", **about)
            process.missed += 1
        else:
            fleet.died(process.name, reason="killed", **about)
        if self.processes.get(process.name) is not process:
            assert fleet.describe() == before[0], LATE
        elif not before[1]:
            gone = kind == "died" or process.missed >= MISSED_UNTIL_DEAD
            assert self.is_dead(process.name) == gone, DEAD

    def is_dead(self, name):
        return name in self.fleet.dead()

    def look(self):
        for name, member in self.fleet.members.items():
            process = self.processes[name]
            if name in self.fleet.serving():
                assert member.health is Health.healthy, ONLY_HEALTHY
                versions = {process.weights, member.version, self.version}
                assert len(versions) == 1 and self.version > 0, SERVES_WHAT_IT_SYNCED
            if member.health is Health.suspect:
                assert 0 < process.missed < MISSED_UNTIL_DEAD, SUSPECT


def simulate(seed, kind=Fleet):
    world = World(seed, kind)
    for _ in range(200):
        world.event()
    return world


def breaks(law, kind):
    """Whether some seed breaks ``law`` before any other."""
    for seed in range(200):
        try:
            simulate(seed, kind)
        except AssertionError as error:
            if str(error).startswith(law):
                return True
    return False


@given(seed=st.integers(0, 2**32))
@settings(max_examples=100)
def test_every_law_holds_whatever_happens_in_whatever_order(seed):
    simulate(seed)


def test_the_simulation_pushes_and_restarts_a_lot():
    """Negative control of the simulation itself: no law holds because nothing happens."""
    worlds = [simulate(seed) for seed in range(50)]
    members = [member for world in worlds for member in world.fleet.members.values()]
    assert {member.health for member in members} == set(Health)
    assert sum(world.version for world in worlds) > 500
    assert sum(member.restarts for member in members) > 200


class ServesTheSuspect(Fleet):
    """Broken: suspects take requests."""

    def serving(self):
        return [m.name for m in self.members.values() if m.name in self.pingable() and m.version]


class ServesAfterBoot(Fleet):
    """Broken: a process that is up serves, whatever its weights."""

    def booted(self, name):
        self.members[name].health = Health.healthy


class Loyal(Fleet):
    """Broken: a push that went by is no reason to stop serving."""

    def out_of_sync(self, name):
        pass


class Unforgiving(Fleet):
    """Broken: missed pings need not be in a row."""

    def answered(self, name, *, incarnation):
        missed = {m.name: m.missed for m in self.members.values()}
        super().answered(name, incarnation=incarnation)
        for member in self.members.values():
            member.missed = missed[member.name]


class Jumpy(Fleet):
    """Broken: a restart leaves a suspect without a reason."""

    def booted(self, name):
        super().booted(name)
        self.members[name].health = Health.suspect


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (SameName, LATE),
        (SameName, SERVES_WHAT_IT_SYNCED),
        (NameIsForgotten, LATE),
        (NameIsForgotten, SERVES_WHAT_IT_SYNCED),
        (ServesTheSuspect, ONLY_HEALTHY),
        (ServesAfterBoot, SERVES_WHAT_IT_SYNCED),
        (Loyal, SERVES_WHAT_IT_SYNCED),
        (Unforgiving, DEAD),
        (Jumpy, SUSPECT),
    ],
)
def test_a_broken_mechanism_breaks_its_law(kind, law):
    assert breaks(law, kind)
