"""What is in the directory already decides what ``resume`` does."""

import pytest

from rlpost.checkpoint.store import CheckpointStore
from rlpost.errors import UserError
from rlpost.stages.run_directory import RunDirectory, config_hash, find_resume_point

CONFIG = {"seed": 1, "trainer": {"lr": 1e-5, "steps": 4}, "run": {"name": "x"}}


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(root=tmp_path / "x")


def resume_point(directory, resume="auto", config=CONFIG):
    store = CheckpointStore(directory.checkpoints)
    return find_resume_point(directory, store, resume=resume, resolved=config)


def save(directory, step):
    store = CheckpointStore(directory.checkpoints)
    with store.saving(step, config_hash="h") as scratch:
        (scratch / "x").write_text("1")


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
    directory.metrics.write_text('{"step": 0}\n')
    longer = {**CONFIG, "trainer": {"lr": 1e-5, "steps": 9}}
    assert resume_point(directory, config=longer) is None
    assert config_hash(longer) == config_hash(CONFIG)
    other = {**CONFIG, "trainer": {"lr": 2e-5, "steps": 4}}
    assert config_hash(other) != config_hash(CONFIG)
    with pytest.raises(UserError, match=r"trainer.lr \(was 1e-05, now 2e-05\)"):
        resume_point(directory, config=other)


def test_named_checkpoint_must_exist(directory, tmp_path):
    with pytest.raises(UserError, match=r"not a\s+directory"):
        resume_point(directory, str(tmp_path / "nope"))


def test_two_drivers_cannot_share_a_directory(directory):
    directory.write_config(CONFIG)
    with directory.lock(), pytest.raises(UserError, match="another process"):
        directory.lock()
    directory.lock().close()


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
    directory.metrics.write_text('{"step": 0}\n')
    for resume in ("auto", "never"):
        with pytest.raises(UserError):
            resume_point(directory, resume)


def test_a_resumed_run_has_the_name_it_had_on_this_host(directory, tmp_path):
    assert directory.host_wide_id == RunDirectory(root=tmp_path / "x").host_wide_id
    assert directory.host_wide_id != RunDirectory(root=tmp_path / "z" / "x").host_wide_id
    assert directory.host_wide_id.startswith("x-")
