"""Failures: everything is tried a bounded number of times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.bounds import check_config
from rlpost.control.failures import Attempts, Budget, FailureConfig, backoff
from rlpost.errors import RunFailed, UserError


@pytest.mark.parametrize(
    ("field", "value", "bound"),
    [
        ("attempts", 0, r"\[1, "),
        ("failures_in_a_row", 0, r"\[1, "),
        ("missed_pings", 0, r"\[1, "),
        ("ping_every_s", 0.0, r"\(0, "),
        ("ping_timeout_s", -1.0, r"\(0, "),
        ("stuck_after_s", 0.0, r"\(0, "),
        ("trainer_restarts", -1, r"\[0, "),
        ("backoff_s", -0.5, r"\[0, "),
        ("max_backoff_s", -1.0, r"\[0, "),
    ],
)
def test_settings_out_of_range_are_refused(field, value, bound):
    with pytest.raises(UserError, match=rf"failures.{field} must be in {bound}.*got {value}"):
        check_config(FailureConfig(**{field: value}), "failures")


def test_the_defaults_and_the_smallest_settings_are_accepted():
    check_config(FailureConfig(), "failures")
    check_config(
        FailureConfig(attempts=1, trainer_restarts=0, backoff_s=0, max_backoff_s=0), "failures"
    )


# -- attempts -----------------------------------------------------------------------------------


def test_a_prompt_is_tried_three_times_and_others_do_not_count():
    attempts = Attempts(3)
    assert [attempts.failed("0:0"), attempts.failed("0:1"), attempts.failed("0:0")] == [True] * 3
    assert not attempts.failed("0:0")
    assert (attempts.count("0:0"), attempts.count("0:1"), attempts.count("0:2")) == (3, 1, 0)


def test_a_prompt_that_ended_is_forgotten():
    attempts = Attempts(2)
    attempts.failed("0:0")
    attempts.ended("0:0")
    attempts.ended("0:7")  # that never failed
    assert attempts.count("0:0") == 0
    assert attempts.failed("0:0")


class Stubborn(Attempts):
    """Broken: there is always another try."""

    def failed(self, uid):
        return super().failed(uid) or True


def tries(kind, limit):
    """How often a prompt that always fails is tried, up to 50."""
    attempts = kind(limit)
    return next((n for n in range(1, 50) if not attempts.failed("0:0")), 50)


@given(limit=st.integers(1, 20))
def test_a_poison_prompt_is_tried_exactly_so_often(limit):
    assert tries(Attempts, limit) == limit
    assert tries(Stubborn, limit) == 50  # negative control


# -- budget -------------------------------------------------------------------------------------


def restarts():
    return Budget(2, of="trainer restarts", field="failures.trainer_restarts")


def test_one_failure_too_many_in_a_row_ends_the_run_with_a_reason():
    budget = restarts()
    budget.spend("rank 0 died")
    budget.spend("rank 0 died")
    with pytest.raises(RunFailed) as failure:
        budget.spend("rank 3 died")
    assert str(failure.value) == (
        "3 trainer restarts in a row without progress (failures.trainer_restarts=2); "
        "the last: rank 3 died"
    )


def test_a_budget_of_nothing_allows_nothing():
    with pytest.raises(RunFailed):
        Budget(0, of="trainer restarts", field="failures.trainer_restarts").spend("rank 0 died")


class Unforgetting(Budget):
    """Broken: what was finished in between does not count."""

    def progress(self):
        pass


def survives(kind, limit, events):
    """Whether a run of failures (True) and progress (False) goes on to its end."""
    budget = kind(limit, of="failures", field="failures.failures_in_a_row")
    try:
        for failed in events:
            budget.spend("it died") if failed else budget.progress()
    except RunFailed:
        return False
    return True


def longest_row(events):
    rows = "".join("x" if failed else " " for failed in events).split()
    return max(map(len, rows), default=0)


events = st.lists(st.booleans(), max_size=40)


@given(limit=st.integers(0, 5), events=events)
def test_a_run_ends_exactly_when_a_row_is_longer_than_the_budget(limit, events):
    assert survives(Budget, limit, events) == (longest_row(events) <= limit)


def test_that_law_notices_a_budget_that_progress_does_not_refill():
    events = [True, False, True, False, True]
    assert longest_row(events) == 1
    assert survives(Budget, 2, events)
    assert not survives(Unforgetting, 2, events)


# -- backoff ------------------------------------------------------------------------------------


def test_the_pause_doubles_up_to_the_longest():
    config = FailureConfig(backoff_s=0.5, max_backoff_s=5.0)
    assert [backoff(n, config=config) for n in (1, 2, 3, 4, 5, 6)] == [0.5, 1, 2, 4, 5, 5]


def test_a_longest_pause_below_the_first_one_wins():
    assert backoff(1, config=FailureConfig(backoff_s=10.0, max_backoff_s=1.0)) == 1.0


def test_the_pause_is_finite_after_any_number_of_failures():
    assert backoff(100_000, config=FailureConfig()) == 30.0


seconds = st.floats(0, 3600)


@given(
    failures=st.integers(1, 10_000),
    first_s=seconds,
    longest_s=seconds,
)
def test_the_pause_is_between_nothing_and_the_longest_and_never_shrinks(
    failures, first_s, longest_s
):
    config = FailureConfig(backoff_s=first_s, max_backoff_s=longest_s)
    check_config(config, "failures")
    full_s = backoff(failures, config=config)
    assert 0 <= full_s <= longest_s
    assert full_s <= backoff(failures + 1, config=config)
