"""What is in the directory already decides what ``resume`` does."""

import os
from pathlib import Path

import pytest

from rlpost.checkpoint.store import CheckpointStore
from rlpost.errors import DataError, UserError
from rlpost.stages.resume_point import config_hash, find_resume_point
from rlpost.stages.run_directory import RunDirectory

CONFIG = {"seed": 1, "trainer": {"lr": 1e-5, "steps": 4}, "run": {"name": "x"}}


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(root=tmp_path / "x")


DEFAULTS = {"seed": 0, "trainer.lr": 1e-6, "trainer.noise": 0.0}


def resume_point(directory, resume="auto", config=CONFIG):
    store = CheckpointStore(directory.checkpoints)
    return find_resume_point(directory, store, resume=resume, resolved=config, defaults=DEFAULTS)


def save(directory, step):
    store = CheckpointStore(directory.checkpoints)
    scratch = store.begin(step)
    (scratch / "x").write_text("1")
    store.commit(scratch, step=step, config_hash="h")


def test_fresh_then_latest(directory):
    assert resume_point(directory) is None
    directory.write_config(CONFIG)
    save(directory, 2)
    save(directory, 4)
    assert resume_point(directory).name == "step_000004"


def test_never_refuses_to_overwrite(directory):
    assert resume_point(directory, "never") is None
    save(directory, 2)
    with pytest.raises(UserError, match="already holds a run"):
        resume_point(directory, "never")


def test_other_settings_are_refused_and_free_ones_are_not(directory):
    directory.write_config(CONFIG)
    directory.metrics.write_text('{"step": 0, "time_s": 0}\n')
    longer = {**CONFIG, "trainer": {"lr": 1e-5, "steps": 9}}
    assert resume_point(directory, config=longer) is None
    assert config_hash(longer) == config_hash(CONFIG)
    other = {**CONFIG, "trainer": {"lr": 2e-5, "steps": 4}}
    assert config_hash(other) != config_hash(CONFIG)
    with pytest.raises(UserError, match=r"trainer.lr \(was 1e-05, now 2e-05\)"):
        resume_point(directory, config=other)


def test_an_option_that_the_run_did_not_know_has_its_default(directory):
    """A later version has ``trainer.noise``; the run was started by one that had not."""
    directory.write_config(CONFIG)
    save(directory, 2)
    for value, goes_on in ((0.0, True), (0.1, False)):
        later = {**CONFIG, "trainer": {**CONFIG["trainer"], "noise": value}}
        if goes_on:
            assert resume_point(directory, config=later).name == "step_000002"
        else:
            with pytest.raises(UserError, match=r"trainer.noise \(was 0.0, now 0.1\)"):
                resume_point(directory, config=later)
    with pytest.raises(UserError, match=r"seed \(was 1, now 0\)"):  # known, so never its default
        resume_point(directory, config={**CONFIG, "seed": 0})


def test_named_checkpoint_must_exist(directory, tmp_path):
    with pytest.raises(UserError, match=r"not a\s+directory"):
        resume_point(directory, str(tmp_path / "nope"))
    with pytest.raises(DataError, match=r"resume=\S+ is not a whole checkpoint: .*MANIFEST"):
        resume_point(directory, str(tmp_path))


def test_a_named_checkpoint_does_not_overwrite_another_run(directory, tmp_path):
    elsewhere = RunDirectory(root=tmp_path / "y")
    save(elsewhere, 2)
    named = str(elsewhere.checkpoints / "step_000002")
    assert resume_point(directory, named).name == "step_000002"
    directory.write_config({**CONFIG, "seed": 2})
    save(directory, 9)
    with pytest.raises(UserError, match="holds a run with other settings: seed"):
        resume_point(directory, named)


def test_a_start_that_failed_binds_nobody(directory):
    """Settings were written, and then something did not come up: no step, no checkpoint."""
    directory.write_config({**CONFIG, "seed": 2})
    directory.checkpoints.mkdir()
    directory.metrics.touch()
    for resume in ("auto", "never"):
        assert resume_point(directory, resume) is None
    directory.metrics.write_text('{"step": 0, "time_s": 0}\n')
    for resume in ("auto", "never"):
        with pytest.raises(UserError):
            resume_point(directory, resume)


@pytest.mark.parametrize("name", ["notes.txt", ".config", "export.bak", "a\nb", "step_000001"])
def test_what_no_run_wrote_is_left_alone(directory, name):
    directory.root.mkdir()
    (directory.root / name).write_text("mine")
    with pytest.raises(UserError, match="holds what no run wrote: "):
        resume_point(directory)
    assert [path.name for path in directory.root.iterdir()] == [name]


def test_what_a_run_writes_and_leaves_when_killed_is_its_own(directory):
    directory.write_config(CONFIG)
    save(directory, 2)
    for name in ("run.log", "trace.json", "report.html", ".config.yaml.x1", ".report.html.tmp"):
        (directory.root / name).write_text("")
    for name in ("rollouts", "wandb", "tensorboard", "export", ".weights", ".export-scratch"):
        (directory.root / name).mkdir()
    directory.lock().close()
    assert resume_point(directory).name == "step_000002"


def fifo(path):
    os.mkfifo(path)  # reading it would wait for ever


def loop(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [fifo, loop, Path.mkdir])
@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl"])
def test_what_is_no_file_in_the_place_of_a_record_is_no_record(directory, name, make):
    directory.write_config(CONFIG)
    save(directory, 2)
    (directory.root / name).unlink(missing_ok=True)
    make(directory.root / name)
    with pytest.raises(UserError, match=f"holds what no run wrote: '{name}'"):
        resume_point(directory)


def test_directories_of_a_run_may_lie_elsewhere(directory, tmp_path):
    directory.write_config(CONFIG)
    save(directory, 2)
    directory.checkpoints.rename(tmp_path / "large disk")
    directory.checkpoints.symlink_to(tmp_path / "large disk")
    assert resume_point(directory).name == "step_000002"


def test_a_run_without_its_settings_is_not_gone_on_with(directory):
    directory.write_config(CONFIG)
    save(directory, 2)
    directory.config.unlink()
    with pytest.raises(DataError, match="it says which settings the run"):
        resume_point(directory)


def test_a_file_in_the_place_of_the_directory_is_said(directory, tmp_path):
    directory.root.write_text("")
    with pytest.raises(UserError, match="cannot be a run's directory: Not a directory"):
        resume_point(directory)
    with pytest.raises(UserError, match=r"set run\.dir to a directory"):
        resume_point(RunDirectory(root=directory.root / "x"))
    with pytest.raises(UserError, match="File name too long"):
        resume_point(RunDirectory(root=tmp_path / ("x" * 300)))


BROKEN_CONFIGS = {
    "not YAML": (b"seed: [1\n", r"config\.yaml:2: "),
    "no mapping": (b"- 1\n", "it holds list instead of settings"),
    "empty": (b"", "it holds NoneType instead of settings"),
    "a tag": (b"seed: !!python/object/apply:os.system [echo]\n", r"config\.yaml:1: "),
    "not UTF-8": (b"seed: \xff\xfe\n", "cannot be read"),
    "a huge number": (b"seed: " + b"1" * 5000 + b"\n", "cannot be read"),
    "a deep list": (b"seed: " + b"[" * 5000, "cannot be read"),
    "no date": (b"seed: 2024-13-45\n", "cannot be read"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN_CONFIGS.values(), ids=list(BROKEN_CONFIGS))
def test_a_damaged_record_of_the_settings_is_said_and_kept(directory, content, message):
    directory.write_config(CONFIG)
    save(directory, 2)
    directory.config.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        resume_point(directory)
    assert "restore it, or choose another run.name" in str(caught.value)
    assert directory.config.read_bytes() == content


BROKEN_METRICS = {
    "words in the middle": b'{"step": 1, "time_s": 1}\ngarbage\n{"step": 2, "time_s": 2}\n',
    "a list": b'{"step": 1, "time_s": 1}\n[1]\n',
    "bytes": b'{"step": 1, "time_s": 1}\n\xff\xfe\n',
    "deep": b'{"step": 1, "time_s": 1}\n' + b"[" * 100_000 + b"\n",
    "no step": b'{"step": 1, "time_s": 1}\n{"time_s": 1}\n',
    "no time": b'{"step": 1, "time_s": 1}\n{"step": 2, "time_s": "later"}\n',
    "a word for a metric": b'{"step": 1, "time_s": 1}\n{"step": 2, "time_s": 2, "m": "high"}\n',
    "a list for a metric": b'{"step": 1, "time_s": 1}\n{"step": 2, "time_s": 2, "m": [1]}\n',
    "a step twice": b'{"step": 1, "time_s": 1}\n{"step": 1, "time_s": 2}\n',
    "a huge number": b'{"step": 1, "time_s": 1}\n{"step": ' + b"1" * 5000 + b"}\n",
}


@pytest.mark.parametrize("content", BROKEN_METRICS.values(), ids=list(BROKEN_METRICS))
def test_damaged_metrics_are_said_with_their_line_and_kept(directory, content):
    directory.write_config(CONFIG)
    save(directory, 2)
    directory.metrics.write_bytes(content)
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: .*remove the line to go on"):
        resume_point(directory)
    assert directory.metrics.read_bytes() == content


def test_a_last_line_that_a_kill_cut_is_no_damage(directory):
    directory.write_config(CONFIG)
    save(directory, 2)
    directory.metrics.write_bytes(b'{"step": 1, "time_s": 1}\n{"step": 2, "ti')
    assert resume_point(directory).name == "step_000002"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"manifest": []}', b"\xff", b"[" * 100_000])
def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(directory, content):
    directory.write_config(CONFIG)
    save(directory, 2)
    manifest = directory.checkpoints / "step_000002" / "MANIFEST.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(content)
    with pytest.raises(DataError, match="starting anew would overwrite what it did"):
        resume_point(directory)
    manifest.write_bytes(whole)
    (directory.checkpoints / "latest").write_text("step_000009\n")  # a hint for people
    assert resume_point(directory).name == "step_000002"


def test_other_settings_on_a_finished_run_say_how_to_go_on_from_its_result(directory):
    directory.write_config(CONFIG)
    save(directory, 4)
    directory.export.mkdir()
    other = {**CONFIG, "trainer": {"lr": 2e-5, "steps": 4}}
    with pytest.raises(UserError, match=r"model\.path=.*/x/export and another run\.name"):
        resume_point(directory, config=other)
