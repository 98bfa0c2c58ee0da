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
