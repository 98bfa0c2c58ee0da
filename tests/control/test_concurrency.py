"""Permits: as many groups as an engine has memory for, within limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.control.concurrency import Load, Permits


def limits(permits, *loads):
    found = []
    for kv_use, num_preempted in loads:
        permits.observe(Load(kv_use=kv_use, num_preempted=num_preempted))
        found.append(permits.limit)
    return found


def test_preemption_halves_and_free_memory_adds_four():
    loads = [(0.95, 1), (0.5, 1), (0.79, 1), (0.8, 1), (0.1, 2), (0.1, 9)]
    assert limits(Permits(highest=64), *loads) == [32, 36, 40, 40, 20, 10]


def test_the_limit_stays_between_lowest_and_highest():
    falling = [(0.9, n) for n in range(1, 8)]
    assert limits(Permits(highest=16, lowest=3), *falling) == [8, 4, 3, 3, 3, 3, 3]
    assert limits(Permits(highest=10), (0.9, 1), *[(0.1, 1)] * 3) == [5, 9, 10, 10]


def test_an_engine_that_restarted_counts_from_zero():
    assert limits(Permits(highest=64), (0.9, 5), (0.9, 0), (0.9, 1)) == [32, 32, 16]


def test_permits_in_use_are_never_taken_back():
    permits = Permits(highest=8)
    for _ in range(8):
        permits.take()
    assert permits.free == 0
    limits(permits, (0.99, 1))
    assert (permits.limit, permits.used, permits.free) == (4, 8, -4)
    for _ in range(5):
        permits.give_back()
    assert (permits.used, permits.free) == (3, 1)


def test_a_permit_that_nobody_took_cannot_come_back():
    permits = Permits(highest=2)
    permits.take()
    permits.give_back()
    with pytest.raises(AssertionError):
        permits.give_back()


class Unlimited(Permits):
    """Broken: grows and shrinks without limits."""

    def observe(self, load):
        self._lowest, self._highest = 0, 10**9
        super().observe(load)


class Revoking(Permits):
    """Broken: a smaller limit takes permits back."""

    def observe(self, load):
        super().observe(load)
        self.used = min(self.used, self.limit)


def check_limits(kind, *, lowest, spread, loads):
    highest = lowest + spread
    permits = kind(highest=highest, lowest=lowest)
    while permits.free > 0:
        permits.take()
    for kv_use, num_preempted in loads:
        before = permits.limit
        permits.observe(Load(kv_use=kv_use, num_preempted=num_preempted))
        assert lowest <= permits.limit <= highest
        assert before // 2 <= permits.limit <= before + Permits.STEP
        assert permits.used == highest
        assert permits.free == permits.limit - permits.used


loads = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5)), max_size=30)


@given(lowest=st.integers(1, 5), spread=st.integers(0, 100), loads=loads)
def test_limits_hold_for_any_load_and_no_permit_is_lost(lowest, spread, loads):
    check_limits(Permits, lowest=lowest, spread=spread, loads=loads)


@pytest.mark.parametrize(
    ("kind", "loads"),
    [(Unlimited, [(0.1, 0)]), (Unlimited, [(0.9, n) for n in range(9)]), (Revoking, [(0.9, 1)])],
)
def test_that_law_notices_broken_permits(kind, loads):
    check_limits(Permits, lowest=1, spread=20, loads=loads)
    with pytest.raises(AssertionError):
        check_limits(kind, lowest=1, spread=20, loads=loads)


@given(highest=st.integers(1, 200), start=st.lists(st.just((0.9, 1)), max_size=1))
def test_a_limit_recovers_once_memory_is_free(highest, start):
    permits = Permits(highest=highest)
    limits(permits, *start)
    assert limits(permits, *[(0.1, len(start))] * 50)[-1] == highest
