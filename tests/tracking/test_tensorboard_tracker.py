"""TensorBoard's files, read back with TensorBoard's own reader."""

import logging

import pytest

from rlpost.errors import UserError
from rlpost.tracking import tensorboard_tracker
from rlpost.tracking.config import ConsoleMode, TrackingConfig, WandbMode
from rlpost.tracking.files.jsonl import read_metrics
from rlpost.tracking.open import open_trackers
from rlpost.tracking.tensorboard_tracker import TensorBoardTracker
from rlpost.tracking.tracker import RunStatus


def _open(run_dir, resume_step=None):
    return open_trackers(
        run_dir,
        cfg=TrackingConfig(
            wandb=WandbMode.disabled, console=ConsoleMode.quiet, tensorboard=True, report=False
        ),
        run_name="demo",
        num_steps=4,
        config={},
        resume_step=resume_step,
    )


def _read(run_dir):
    """Step -> name -> value, as TensorBoard shows it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    found = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            found.setdefault(event.step, {})[name] = event.value
    return found


def _as_recorded(run_dir):
    return {
        row["step"]: {
            name: pytest.approx(value, rel=1e-6)
            for name, value in row.items()
            if name not in ("step", "time_s") and value is not None
        }
        for row in read_metrics(run_dir / "metrics.jsonl")
    }


def test_every_metric_is_there(tmp_path, runs):
    trackers = _open(tmp_path)
    for step in range(1, 5):
        trackers.log(step, {**runs.step_metrics(step), "actor/bad": float("nan")})
    trackers.log(4, {"val-core/arithmetic/acc/mean@2": 0.5})  # a step may come in parts
    trackers.close(RunStatus.done)
    assert len(_read(tmp_path)) == 4
    assert _read(tmp_path) == _as_recorded(tmp_path)


def test_a_resume_and_a_rewind_leave_each_step_once(tmp_path):
    trackers = _open(tmp_path)
    for step in (1, 2, 3):
        trackers.log(step, {"a": float(step)})
    trackers.rewind(1)
    trackers.log(2, {"a": 20.0})
    trackers.close(RunStatus.interrupted)
    assert {step: row["a"] for step, row in _read(tmp_path).items()} == {1: 1.0, 2: 20.0}
    trackers = _open(tmp_path, resume_step=1)
    trackers.log(2, {"a": 200.0})
    trackers.close(RunStatus.done)
    assert {step: row["a"] for step, row in _read(tmp_path).items()} == {1: 1.0, 2: 200.0}
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_a_directory_that_refuses_costs_two_lines(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file where the directory should be")
    tracker = TensorBoardTracker(tmp_path)
    for step in range(4):
        tracker.log(step, {"a": 1.0})
    tracker.close(RunStatus.done)
    assert tracker._given_up
    warned = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(warned) == 2 and "given up" in warned[1]


def test_without_the_package_it_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard_tracker.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"tracking\.tensorboard=true needs tensorboard"):
        _open(tmp_path / "run")
    assert not (tmp_path / "run").exists()
