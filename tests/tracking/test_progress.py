import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.tracking.progress import (
    StepForecast,
    cost_words,
    duration,
    one_line,
    reward_components,
    sparkline,
)


def test_time_left_counts_evaluations_too():
    progress = StepForecast(10)
    assert progress.time_left_s(0.0) is None
    progress.observe(0, {}, now_s=0.0)
    assert progress.time_left_s(5.0) is None
    progress.observe(1, {}, now_s=30.0)
    progress.observe(2, {}, now_s=50.0)
    progress.observe(2, {"val-core/a/acc/mean@1": 0.5}, now_s=60.0)  # same step, later
    assert progress.time_left_s(60.0) == pytest.approx(8 * 30.0)
    assert progress.time_left_s(70.0) == pytest.approx(8 * 30.0 - 10.0)
    progress.observe(10, {}, now_s=300.0)
    assert progress.time_left_s(300.0) is None  # an export has no pace


def test_no_time_is_left_when_it_is_over():
    progress = StepForecast(3)
    progress.observe(1, {"timing_s/step": 5.0}, now_s=0.0)
    assert progress.time_left_s(8.0) == 2.0
    assert progress.time_left_s(9.5) is None and progress.time_left_s(60.0) is None


def test_the_best_loss_is_the_lowest():
    progress = StepForecast(3)
    for step, value in enumerate([2.0, 1.0, 1.0, 3.0]):
        progress.observe(step, {"sft/heldout_loss/a": value}, now_s=step)
    assert progress.best() == (1, 1.0) and progress.heldout_kind.words == "held-out loss"


def test_a_run_remembers_that_its_rewards_were_graded():
    name = "val-core/a/acc/mean@2"
    progress = StepForecast(3)
    progress.observe(0, {name: 0.0}, now_s=0.0)
    assert not progress.graded
    progress.observe(1, {name: 0.4, "val-core/a/graded_frac": 1.0}, now_s=1.0)
    progress.observe(2, {name: 1.0, "val-core/a/graded_frac": 0.0}, now_s=2.0)
    assert progress.graded


def test_what_is_recalled_has_no_pace():
    progress = StepForecast(10)
    rows = [{"step": step, "time_s": 9.0, "critic/score/mean": 0.1 * step} for step in range(4)]
    progress.recall([*rows, {"step": 4, "critic/score/mean": None}])
    assert progress.step == 4 and len(progress.curves["reward"]) == 4
    assert progress.time_left_s(100.0) is None


def test_components_are_the_means_of_verifiers():
    row = {"verifier/math/mean": 0.5, "verifier/a/b/mean": 0.1, "verifier/math/error_rate": 0.0}
    assert reward_components(row) == {"math": 0.5, "a/b": 0.1}


def test_one_step_after_a_resume_uses_its_own_duration():
    progress = StepForecast(10)
    progress.observe(7, {"timing_s/step": 12.0}, now_s=0.0)
    assert progress.time_left_s(0.0) == 36.0


def test_best_is_the_earliest_of_equals():
    progress = StepForecast(3)
    for step, value in enumerate([0.1, 0.4, 0.4, 0.3]):
        progress.observe(step, {"val-core/a/acc/mean@1": value}, now_s=step)
    assert progress.best() == (1, 0.4)


def test_a_rewind_forgets_later_steps_and_measures_the_pace_anew():
    progress = StepForecast(10)
    for step in range(5):
        row = {"val-core/a/acc/mean@1": step / 10, "critic/score/mean": step / 10}
        progress.observe(step, row, now_s=10.0 * step)
    progress.rewind(2)
    assert (progress.step, progress.best()) == (2, (2, 0.2))
    assert [step for step, _ in progress.curves["reward"]] == [0, 1, 2]
    assert progress.time_left_s(50.0) is None and progress.latest == {}
    progress.observe(3, {}, now_s=100.0)  # with the old pace: a step in 100 s
    progress.observe(4, {}, now_s=120.0)
    assert progress.time_left_s(120.0) == pytest.approx(6 * 20.0)
    progress.rewind(-1)
    assert (progress.step, progress.heldout) == (0, [])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_the_cost_is_told_in_hours_of_devices():
    assert cost_words({"cost/gpu_s": 4500.0, "cost/lost/gpu_s": 720.0}) == (
        "1.25 GPU hours", "0.20 of them lost",
    )  # fmt: skip
    assert cost_words({"cost/core_s": 36.0, "cost/lost/core_s": 0.0}) == ("0.01 core hours", "")
    assert cost_words({"cost/wall_s": 3.0}) is None


def test_sparkline_spans_lowest_to_highest():
    assert sparkline([0.0, 7.0, 3.0], width=9) == "▁█▄"
    assert sparkline([5.0, 0.0, 7.0], width=2) == "▁█"
    assert sparkline([2.0, 2.0], width=9) == "▄▄"
    assert sparkline([float("nan")], width=9) == ""


@given(st.text(), st.integers(min_value=1, max_value=30))
def test_one_line_fits(text, width):
    assert len(one_line(text, width)) <= width
    assert "\n" not in one_line(text, width)
