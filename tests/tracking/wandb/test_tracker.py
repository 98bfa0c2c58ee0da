import json
import logging
import math
import sys
from types import ModuleType

import pytest

from rlpost.tracking.config import ConsoleMode, TrackingConfig, WandbMode
from rlpost.tracking.files.jsonl import read_metrics
from rlpost.tracking.open import open_trackers
from rlpost.tracking.tracker import RunStatus
from rlpost.tracking.wandb.tracker import WandbTracker, run_id


def _open(run_dir, **changes):
    return WandbTracker(
        run_dir,
        cfg=TrackingConfig(**changes),
        mode=WandbMode.offline,
        run_name="demo",
        config={"trainer": {"lr": 2e-5, "steps": 14}},
    )


def _files(run_dir):
    return sorted(run_dir.glob("wandb/offline-run-*/*.wandb"))


def test_an_offline_run_holds_metrics_samples_and_config(
    tmp_path, runs, wandb_file, capfd, caplog, monkeypatch
):
    monkeypatch.setitem(sys.modules, "openai", ModuleType("openai"))  # W&B has advice on it
    tracker = _open(tmp_path, project="arith", group="sweep1", sample_rows=2)
    assert tracker._run is not None
    tracker.log(1, {"critic/score/mean": 0.25, "actor/grad_norm": float("nan")})
    tracker.log_samples(1, runs.step_samples(1, count=8))
    tracker.log(2, {"critic/score/mean": 0.5})
    tracker.close(RunStatus.done)
    assert tracker._run is None

    (path,) = _files(tmp_path)
    records = wandb_file.finished_records(path)
    rows = wandb_file.history(records)
    scores = {
        row["training/global_step"]: row["critic/score/mean"]
        for row in rows
        if "critic/score/mean" in row
    }
    assert scores == {1: 0.25, 2: 0.5}
    assert [row["samples.nrows"] for row in rows if "samples.nrows" in row] == [2]
    (media,) = tmp_path.glob("wandb/offline-run-*/files/media/table/*.json")
    written = json.loads(media.read_text())
    assert written["columns"][:4] == ["step", "uid", "sample", "reward"]
    assert [row[4] for row in written["data"]] == ["What is 2 * 1?", "What is 9 * 1?"]
    assert wandb_file.config(records)["trainer"] == {"lr": 2e-5, "steps": 14}
    (run,) = [each.run for each in records if each.WhichOneof("record_type") == "run"][:1]
    assert (run.project, run.run_group, run.display_name) == ("arith", "sweep1", "demo")
    assert run.run_id == run_id(tmp_path)
    out, err = capfd.readouterr()
    assert "wandb" not in out + err  # the terminal belongs to the console
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_every_metric_of_metrics_jsonl_is_in_the_file(tmp_path, runs, wandb_file):
    """Through the same fan-out as a run, with evaluations, nulls and names of every kind."""
    trackers = open_trackers(
        tmp_path,
        cfg=TrackingConfig(wandb=WandbMode.offline, console=ConsoleMode.quiet, report=False),
        run_name="demo",
        num_steps=14,
        config={},
    )
    for step in range(15):
        row = runs.step_metrics(step) if step else {}
        if step % 7 == 0:
            row |= {"val-core/arithmetic/acc/mean@2": 0.2 + step / 100, "val-core/x.y/missing": 0}
        row |= {"training/off_policy/staleness/0": 1.0} if step % 2 else {"actor/odd": math.nan}
        trackers.log(step, row)
    trackers.close(RunStatus.done)
    (path,) = _files(tmp_path)
    sent = wandb_file.by_step(wandb_file.finished_records(path))
    recorded = read_metrics(tmp_path / "metrics.jsonl")
    assert len(recorded) == 15
    assert wandb_file.missing(recorded, sent) == []
    dropped = {k: v for k, v in sent[3].items() if k != "actor/entropy"}
    lost = wandb_file.missing(recorded, {**sent, 3: dropped})
    assert lost == [(3, "actor/entropy")]  # the comparison sees what is not there


def test_a_finished_run_says_what_its_model_came_from(tmp_path, wandb_file):
    config = {"model": {"path": "base"}, "data": {"train": "a.jsonl"}, "reward_models": {}}
    for status in (RunStatus.interrupted, RunStatus.done):
        run_dir = tmp_path / status.value
        (run_dir / "export").mkdir(parents=True)
        (run_dir / "export" / "model.safetensors").write_text("weights")
        tracker = WandbTracker(
            run_dir,
            cfg=TrackingConfig(),
            mode=WandbMode.offline,
            run_name="demo",
            config=config,
        )
        tracker.log(14, {"a": 1.0})
        tracker.close(status)
        (path,) = _files(run_dir)
        records = wandb_file.finished_records(path)
        found = [r.artifact for r in records if r.WhichOneof("record_type") == "artifact"]
        assert len(found) == (status is RunStatus.done)
    (artifact,) = found
    assert (artifact.type, artifact.name) == ("model", f"model-{run_id(run_dir)}")
    assert json.loads(artifact.metadata) == {
        "run_dir": str(run_dir),
        "step": 14,
        "model.path": "base",
        "data.train": "a.jsonl",
    }
    (entry,) = artifact.manifest.contents
    assert entry.path == "step_000014/model.safetensors"
    assert entry.ref == (run_dir / "export" / "model.safetensors").as_uri()


def test_a_resumed_run_keeps_its_id(tmp_path, wandb_file):
    for step in (1, 2):
        tracker = _open(tmp_path)
        tracker.log(step, {"a": float(step)})
        tracker.close(RunStatus.interrupted if step == 1 else RunStatus.done)
    identity = run_id(tmp_path)
    assert run_id(tmp_path) == identity
    found = {path.name for path in _files(tmp_path)}
    assert found == {f"run-{identity}.wandb"}
    (tmp_path / "other").mkdir()
    assert run_id(tmp_path / "other") != identity


def test_after_a_rewind_rows_come_again_as_the_next_attempt(tmp_path, wandb_file):
    tracker = _open(tmp_path)
    tracker.rewind(-1)  # as at every opening
    for step in (1, 2, 3):
        tracker.log(step, {"a": float(step)})
    tracker.rewind(1)
    for step in (2, 3):
        tracker.log(step, {"a": 10.0 * step})
    tracker.close(RunStatus.interrupted)
    (path,) = _files(tmp_path)
    rows = wandb_file.history(wandb_file.finished_records(path))
    keys = ("_step", "training/global_step", "training/attempt", "a")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        (0, 1, 0, 1.0),
        (1, 2, 0, 2.0),
        (2, 3, 0, 3.0),
        (3, 2, 1, 20.0),  # W&B's own step goes on
        (4, 3, 1, 30.0),
    ]

    tracker = _open(tmp_path)  # the count outlives the process
    tracker.rewind(3)
    tracker.close(RunStatus.done)
    assert (tmp_path / "wandb" / "attempt").read_text() == "2\n"


def test_a_count_that_cannot_be_kept_costs_a_warning(tmp_path, caplog):
    tracker = _open(tmp_path)
    tracker.rewind(-1)
    (tmp_path / "wandb" / "attempt").write_text("many\n")
    tracker.rewind(1)
    assert tracker._run is not None and "counting W&B attempts failed" in caplog.text
    tracker.close(RunStatus.done)


def test_a_directory_that_refuses_costs_one_warning(tmp_path, runs, caplog):
    (tmp_path / "wandb").write_text("a file where the directory should be")
    tracker = _open(tmp_path)
    tracker.log(1, {"a": 1.0})
    tracker.log_samples(1, [runs.sample()])
    tracker.close(RunStatus.done)
    assert tracker._run is None
    warned = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warned) == 1 and "opening W&B (offline) failed" in warned[0].getMessage()


class _Broken:
    """What a W&B run is to the tracker, with every call failing."""

    def __init__(self):
        self.calls = 0

    def log(self, row):
        self.calls += 1
        raise ConnectionError("no route to host")

    def finish(self, exit_code):
        raise TimeoutError("still uploading")


def test_calls_that_fail_are_given_up_after_three(tmp_path, caplog):
    tracker = _open(tmp_path)
    real, broken = tracker._run, _Broken()
    tracker._run = broken
    for step in range(5):
        tracker.log(step, {"a": 1.0})
    assert broken.calls == 3 and tracker._run is None
    assert "given up" in caplog.text
    tracker._run = broken
    tracker.close(RunStatus.failed)
    assert "closing W&B failed: TimeoutError" in caplog.text
    real.finish()


def test_no_rows_means_no_table(tmp_path, runs):
    tracker = _open(tmp_path, sample_rows=0)
    tracker.log_samples(1, [runs.sample()])
    tracker.close(RunStatus.done)
    assert not list(tmp_path.glob("wandb/offline-run-*/files/media/**/*.json"))


def test_disabled_is_not_a_way_to_open_it(tmp_path):
    with pytest.raises(AssertionError):
        WandbTracker(
            tmp_path, cfg=TrackingConfig(), mode=WandbMode.disabled, run_name="x", config={}
        )
