import io
import json
import logging
import subprocess
import sys
import time

import pytest
from rich.console import Console as Terminal

from rlpost.errors import UserError
from rlpost.tracking.config import ConsoleMode, TrackingConfig, WandbMode
from rlpost.tracking.console import Console
from rlpost.tracking.jsonl import read_metrics
from rlpost.tracking.open import open_trackers
from rlpost.tracking.rollouts import RolloutWriter, rollout_files
from rlpost.tracking.tracker import RunStatus


def _open(run_dir, *, resume_step=None, **changes):
    options = {"wandb": WandbMode.disabled, "console": ConsoleMode.quiet, **changes}
    return open_trackers(
        run_dir,
        cfg=TrackingConfig(**options),
        run_name="demo",
        num_steps=4,
        config={"a": 1},
        resume_step=resume_step,
    )


def _steps(trackers, runs, steps):
    for step in steps:
        trackers.log(step, {"critic/score/mean": 0.1 * step})
        trackers.log_samples(step, [runs.sample()])


def test_a_run_and_its_resume_leave_each_step_once(tmp_path, runs):
    trackers = _open(tmp_path)
    _steps(trackers, runs, range(1, 4))
    trackers.close(RunStatus.interrupted)
    trackers = _open(tmp_path, resume_step=2)
    assert list(rollout_files(tmp_path / "rollouts")) == [1, 2]
    _steps(trackers, runs, range(3, 5))
    trackers.close(RunStatus.done)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert list(rollout_files(tmp_path / "rollouts")) == [1, 2, 3, 4]
    assert (tmp_path / "report.html").exists() and not (tmp_path / "wandb").exists()


def _span_names(run_dir):
    events = json.loads((run_dir / "trace.json").read_text() + "]")
    return [event["name"] for event in events if event["ph"] == "X"]


def _work(trackers, runs, steps):
    for step in steps:
        now_s = time.monotonic()
        trackers.span("trainer", f"train {step}", start_s=now_s, end_s=now_s)
        _steps(trackers, runs, [step])


def test_a_rewind_leaves_what_a_resume_would_leave(tmp_path, runs):
    for name in ("rewound", "resumed"):
        run_dir = tmp_path / name
        trackers = _open(run_dir)
        _work(trackers, runs, range(1, 5))
        if name == "rewound":
            trackers.rewind(2)
        else:
            trackers.close(RunStatus.interrupted)
            trackers = _open(run_dir, resume_step=2)
        assert list(rollout_files(run_dir / "rollouts")) == [1, 2]
        assert [row["step"] for row in read_metrics(run_dir / "metrics.jsonl")] == [1, 2]
        _work(trackers, runs, [3])
        trackers.close(RunStatus.done)
        assert [row["step"] for row in read_metrics(run_dir / "metrics.jsonl")] == [1, 2, 3]
        spans = _span_names(run_dir)  # time does not go back
        assert [each for each in spans if each.startswith("train")] == [
            "train 1",
            "train 2",
            "train 3",
            "train 4",
            "train 3",
        ]
        assert "back to step 2" in spans


def test_a_start_that_fails_gives_the_terminal_back(tmp_path, runs, monkeypatch):
    def refuse(self, step):
        raise OSError("disk full")

    monkeypatch.setattr(RolloutWriter, "rewind", refuse)
    console = Console(run_name="demo", num_steps=4, mode=ConsoleMode.plain)
    handlers = logging.getLogger("rlpost").handlers
    before = list(handlers)
    with pytest.raises(OSError, match="disk full"):
        open_trackers(
            tmp_path,
            cfg=TrackingConfig(wandb=WandbMode.disabled, report=False),
            run_name="demo",
            num_steps=4,
            config={},
            console=console,
        )
    assert len(before) == len(handlers) + 1  # the console listens no more


def test_a_fresh_start_removes_what_was_there(tmp_path, runs):
    trackers = _open(tmp_path)
    _work(trackers, runs, [1])
    trackers.close(RunStatus.failed)
    assert (tmp_path / "trace.json").exists()
    _open(tmp_path, report=False).close(RunStatus.done)
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    assert rollout_files(tmp_path / "rollouts") == {}
    assert not (tmp_path / "trace.json").exists()


def test_options_switch_their_sink(tmp_path, runs):
    trackers = _open(tmp_path, wandb=WandbMode.auto, report=False)
    trackers.close(RunStatus.done)
    assert (tmp_path / "wandb" / "run_id").exists() and not (tmp_path / "report.html").exists()


def test_a_console_opened_earlier_is_used(tmp_path):
    screen = io.StringIO()
    console = Console(
        run_name="demo", num_steps=4, mode=ConsoleMode.plain, terminal=Terminal(file=screen)
    )
    cfg = TrackingConfig(wandb=WandbMode.disabled, console=ConsoleMode.quiet, report=False)
    trackers = open_trackers(
        tmp_path, cfg=cfg, run_name="demo", num_steps=4, config={}, console=console
    )
    trackers.log(1, {"critic/score/mean": 0.5})
    trackers.close(RunStatus.done)
    assert "reward 0.500" in screen.getvalue()


def test_bad_options_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="sample_rows"):
        _open(tmp_path / "run", sample_rows=-1)
    assert not (tmp_path / "run").exists()


def test_the_room_opens_without_heavy_imports():
    code = (
        "import sys, rlpost.tracking.open; "
        "print(sorted({'torch', 'ray', 'vllm', 'deepspeed', 'wandb', 'plotly'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
