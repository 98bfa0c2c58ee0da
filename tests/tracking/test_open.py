import io
import json
import logging
import subprocess
import sys
import time

import pytest

from rlpost.errors import UserError
from rlpost.tracking.config import ConsoleMode, TrackingConfig, WandbMode
from rlpost.tracking.files.jsonl import read_metrics
from rlpost.tracking.files.rollouts import RolloutWriter, rollout_files
from rlpost.tracking.open import open_trackers
from rlpost.tracking.tracker import RunStatus


def _open(run_dir, *, resume_step=None, terminal=None, **changes):
    options = {"wandb": WandbMode.disabled, "console": ConsoleMode.quiet, **changes}
    return open_trackers(
        run_dir,
        cfg=TrackingConfig(**options),
        run_name="demo",
        num_steps=4,
        config={"a": 1},
        resume_step=resume_step,
        terminal=terminal,
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
    handlers = logging.getLogger("rlpost").handlers
    before = list(handlers)
    with pytest.raises(OSError, match="disk full"):
        open_trackers(
            tmp_path,
            cfg=TrackingConfig(wandb=WandbMode.disabled, report=False),
            run_name="demo",
            num_steps=4,
            config={},
        )
    assert list(handlers) == before  # the console listens no more


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


def test_the_console_writes_to_the_stream_it_is_given(tmp_path, capsys):
    screen = io.StringIO()
    trackers = _open(tmp_path, console=ConsoleMode.plain, report=False, terminal=screen)
    trackers.log(1, {"critic/score/mean": 0.5})
    trackers.close(RunStatus.done)
    assert "reward 0.500" in screen.getvalue() and capsys.readouterr().out == ""


def test_a_resumed_run_remembers_where_it_began(tmp_path, capsys):
    name, before, screen = "val-core/a/acc/mean@1", {"critic/score/mean": 0.2}, io.StringIO()
    trackers = _open(tmp_path, report=False)
    trackers.log(0, {name: 0.125})
    trackers.log(1, before)
    trackers.log(2, {**before, name: 0.75})
    trackers.close(RunStatus.interrupted)
    trackers = _open(
        tmp_path, resume_step=1, console=ConsoleMode.plain, report=False, terminal=screen
    )
    trackers.log(2, {name: 0.5})  # what was after the checkpoint is forgotten
    trackers.close(RunStatus.done)
    assert "held-out accuracy 0.125 → 0.500  best 0.500 at step 2" in screen.getvalue()


def test_a_run_that_does_not_learn_says_so_once(tmp_path, runs):
    screen = io.StringIO()
    nothing = {"response_length/mean": 9.0, "critic/score/mean": 0.0, "critic/score/max": 0.0}
    nothing["critic/score/min"] = 0.0
    trackers = _open(tmp_path, console=ConsoleMode.plain, terminal=screen)
    for step in range(1, 5):
        trackers.log(step, nothing)
    trackers.close(RunStatus.done)
    lines = screen.getvalue().splitlines()
    warned = [number for number, line in enumerate(lines) if line.startswith("warning: ")]
    assert [lines[number - 1][:8] for number in warned] == ["step 1/4", "step 2/4"]
    assert "no held-out data" in lines[warned[0]] and "data.heldout=FILE" in lines[warned[0]]
    assert "no response of steps 1 and 2 got a reward above 0" in lines[warned[1]]
    page = (tmp_path / "report.html").read_text()
    assert "No response of steps 3 and 4 got a reward above 0." in page


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
