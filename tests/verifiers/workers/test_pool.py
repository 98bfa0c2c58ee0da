"""Turns and spares, with sandboxes that only remember what was done to them."""

import threading
import time

import pytest

from rlpost.errors import InfrastructureError
from rlpost.verifiers.workers.pool import Pool
from rlpost.verifiers.workers.sandbox import SandboxClosed


class FakeSandbox:
    def __init__(self):
        self.alive = False
        self.closed = False
        self.num_lost = 0

    def start(self):
        self.alive = True

    def interrupt(self):
        self.alive = False

    def close(self):
        self.alive, self.closed = False, True


@pytest.fixture
def made():
    return []


@pytest.fixture
def pool(made):
    def make():
        made.append(FakeSandbox())
        return made[-1]

    pool = Pool(make, num_workers=2, num_spares=1)
    pool.add()
    pool.add()
    yield pool
    pool.close()
    assert pool.alive() == 0


class Waiter(threading.Thread):
    """Waits for a turn and keeps it until told."""

    def __init__(self, pool):
        super().__init__(daemon=True)
        self.pool, self.turn = pool, None
        self.begun, self.release = threading.Event(), threading.Event()
        self.start()

    def run(self):
        with self.pool.turn() as turn:
            self.turn = turn
            self.begun.set()
            self.release.wait(60)

    def end(self):
        self.release.set()
        self.join(60)

    def has_turn(self):
        return self.begun.wait(60)

    def has_none(self):
        return not self.begun.wait(0.1)


def _one_has_turn(*waiters):
    """Wait until one of them has; returns whether no other has."""
    deadline = time.monotonic() + 60
    while not any(waiter.begun.is_set() for waiter in waiters):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return sum(not waiter.has_none() for waiter in waiters) == 1


def _waiters(pool, number):
    waiters = [Waiter(pool) for _ in range(number)]
    assert all(waiter.has_turn() for waiter in waiters)
    return waiters


def test_turns_are_bounded(pool, made):
    first, second = _waiters(pool, 2)
    third = Waiter(pool)
    assert third.has_none()
    first.end()
    assert third.has_turn()
    second.end()
    third.end()
    assert len(made) == 2 and pool.alive() == 2


def test_an_overdue_call_lets_one_other_begin(pool, made):
    first, second = _waiters(pool, 2)
    third, fourth = Waiter(pool), Waiter(pool)
    first.turn.overdue()
    first.turn.overdue()
    assert _one_has_turn(third, fourth)
    assert len(made) == 3
    second.turn.overdue()  # one spare is all there is
    assert _one_has_turn(third, fourth)
    for waiter in (first, second, third, fourth):
        waiter.end()
    assert pool.alive() == 2


def test_a_spare_serves_many_and_ends_with_the_overdue_call(pool, made):
    first, second = _waiters(pool, 2)
    first.turn.overdue()
    second.turn.overdue()
    for _ in range(5):
        [waiter] = _waiters(pool, 1)
        waiter.end()
    assert len(made) == 3 and pool.alive() == 3
    first.end()
    second.end()
    assert pool.alive() == 2
    assert sum(sandbox.closed for sandbox in made) == 1


def test_a_sandbox_that_was_lost_is_started_again(pool, made):
    [waiter] = _waiters(pool, 1)
    lost = waiter.turn.sandbox
    lost.alive, lost.num_lost = False, 1
    waiter.end()
    assert lost.alive and pool.num_lost() == 1 and len(made) == 2


def test_losses_of_a_spare_that_ended_still_count(pool, made):
    first, second = _waiters(pool, 2)
    first.turn.overdue()
    [third] = _waiters(pool, 1)
    first.turn.sandbox.num_lost = 4
    for waiter in (first, second, third):
        waiter.end()
    assert pool.num_lost() == 4


def test_a_start_that_fails_is_left_to_the_next_call():
    class Broken(FakeSandbox):
        def start(self):
            raise InfrastructureError("no")

    pool = Pool(Broken, num_workers=1, num_spares=0)
    pool.add()
    with pool.turn() as turn:
        assert not turn.sandbox.alive
    pool.close()


def test_closing_refuses_those_who_wait_and_those_who_come(pool):
    first, second = _waiters(pool, 2)
    refused = []

    def wait():
        try:
            with pool.turn():
                pass
        except SandboxClosed:
            refused.append(True)

    waiting = threading.Thread(target=wait)
    waiting.start()
    pool.interrupt()
    waiting.join(60)
    first.end()
    second.end()
    wait()
    assert refused == [True, True]
