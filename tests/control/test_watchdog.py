"""The watchdog: whoever waits is noticed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.control.watchdog import Stuck, Watchdog


def test_silence_is_noticed_after_its_time_and_names_the_last_progress():
    watchdog = Watchdog(stuck_after_s=60, now_s=1000)
    assert watchdog.look(now_s=1060) is None
    assert watchdog.look(now_s=1061) == Stuck(since_s=61, last="start")
    watchdog.progress("group 0:7", now_s=1061)
    assert watchdog.look(now_s=1121) is None
    stuck = watchdog.look(now_s=1200)
    assert str(stuck) == "nothing was finished for 139 s, the last was: group 0:7"


def test_looking_is_no_progress():
    watchdog = Watchdog(stuck_after_s=60, now_s=0)
    assert all(watchdog.look(now_s=now_s) is None for now_s in range(61))
    assert watchdog.look(now_s=60.5) is not None
    assert watchdog.look(now_s=61) is not None  # and it stays noticed
    watchdog.progress("an update", now_s=61)
    assert watchdog.look(now_s=62) is None


class Distracted(Watchdog):
    """Broken: a look counts as progress."""

    def look(self, *, now_s):
        stuck = super().look(now_s=now_s)
        self.progress("a look", now_s=now_s)
        return stuck


class Deaf(Watchdog):
    """Broken: progress does not count."""

    def progress(self, what, *, now_s):
        pass


def check_noticed_exactly_after_silence(kind, steps):
    """``steps``: seconds that pass, and whether something is finished then."""
    now_s = last_s = 0
    watchdog = kind(stuck_after_s=10, now_s=0)
    for passed_s, finished in steps:
        now_s += passed_s
        if finished:
            watchdog.progress("a group", now_s=now_s)
            last_s = now_s
        stuck = watchdog.look(now_s=now_s)
        assert (stuck is not None) == (now_s - last_s > 10)
        assert stuck is None or stuck.since_s == now_s - last_s


@given(st.lists(st.tuples(st.integers(0, 15), st.booleans())))
def test_a_run_is_stuck_exactly_when_nothing_was_finished_for_so_long(steps):
    check_noticed_exactly_after_silence(Watchdog, steps)


@pytest.mark.parametrize(
    ("kind", "steps"), [(Distracted, [(6, False), (6, False)]), (Deaf, [(6, True), (6, True)])]
)
def test_that_law_notices_a_broken_watchdog(kind, steps):
    check_noticed_exactly_after_silence(Watchdog, steps)
    with pytest.raises(AssertionError):
        check_noticed_exactly_after_silence(kind, steps)
