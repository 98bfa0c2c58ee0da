"""A run that only costs money ends with a reason; one that learns, or has learned, goes on."""

import pytest

from rlpost.control.failures import FailureConfig
from rlpost.control.learning import WINDOW, Learning, StepOutcome
from rlpost.errors import NothingLearned, VerifiersFailing


def outcome(*, updated=False, solved=False, num_responses=WINDOW, **failures) -> StepOutcome:
    return StepOutcome(
        updated=updated, solved=solved, num_responses=num_responses, failures=failures
    )


def after(*outcomes: StepOutcome, **config) -> Learning:
    learning = Learning(FailureConfig(**config))
    for each in outcomes:
        learning.note(each)
    return learning


def test_idle_steps_in_a_row_end_the_run():
    after(*[outcome()] * 2, idle_steps=3).check()
    with pytest.raises(NothingLearned, match=r"no update in 3 steps in a row \(failures.idle"):
        after(*[outcome()] * 3, idle_steps=3).check()
    after(*[outcome()] * 99, idle_steps=0).check()


@pytest.mark.parametrize("progress", [{"updated": True}, {"solved": True}])
def test_an_update_or_a_solved_step_starts_the_count_anew(progress):
    steps = [outcome(), outcome(), outcome(**progress), outcome(), outcome()]
    after(*steps, idle_steps=3).check()
    with pytest.raises(NothingLearned):
        after(*steps, outcome(), idle_steps=3).check()


def test_failing_verifiers_end_the_run_with_the_most_frequent_reason():
    bad = outcome(timeout=2, updated=True, num_responses=WINDOW, **{"ValueError: x": WINDOW // 2})
    with pytest.raises(VerifiersFailing, match=r"34 of the last 64 .*'ValueError: x' \(32 times\)"):
        after(bad).check()
    after(outcome(updated=True, timeout=WINDOW // 2)).check()  # not above the bound
    after(bad, verifier_error_rate=1.0).check()


def test_few_responses_are_no_rate_and_old_ones_are_forgotten():
    after(outcome(updated=True, num_responses=8, timeout=8)).check()
    small = [outcome(updated=True, num_responses=8, timeout=8)] * (WINDOW // 8)
    with pytest.raises(VerifiersFailing):
        after(*small).check()
    after(*small, outcome(updated=True)).check()


def test_a_run_that_never_updated_anything_is_not_exported():
    with pytest.raises(NothingLearned, match=r"64 of the last 64 .*'timeout'"):
        after(outcome(timeout=WINDOW), verifier_error_rate=1.0).end()
    with pytest.raises(NothingLearned, match="rewards within each group were equal"):
        after(outcome()).end()
    learned = after(outcome(updated=True), outcome())
    learned.end()
    assert not learned.changed_nothing
    solved = after(outcome(solved=True))
    solved.end()
    assert solved.changed_nothing


@pytest.mark.parametrize("solved", [True, False])
def test_what_was_reached_survives_a_resume_and_idleness_does_not(solved):
    before = after(*[outcome()] * 9, outcome(solved=solved), idle_steps=12)
    resumed = Learning(FailureConfig(idle_steps=3))
    resumed.load_state_dict(before.state_dict())
    resumed.check()
    if solved:
        resumed.end()
    else:
        with pytest.raises(NothingLearned):
            resumed.end()
