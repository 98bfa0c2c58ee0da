"""What a second Ctrl-C leaves behind; the first is tested on a real run in tests/system/."""

import asyncio
import os
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest

from rlpost.checkpoint.store import CheckpointStore
from rlpost.config.schema import RLConfig, RunConfig
from rlpost.errors import RunStuck, UserError
from rlpost.models.card import write_model_card
from rlpost.models.origin import ModelOrigin
from rlpost.stages import driver
from rlpost.stages.roles import Role
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.scale_request import request_generators
from rlpost.tracking.config import ConsoleMode, TrackingConfig, WandbMode
from rlpost.tracking.tracker import RunStatus

QUIET = TrackingConfig(wandb=WandbMode.disabled, console=ConsoleMode.quiet, report=False)


GENERATOR = Role(name="generators", processes="1 generator", actors=(), memory=lambda work: [])


def prepare(cfg, *, directory, device):
    return SimpleNamespace(cfg=cfg, roles=[GENERATOR])


STAGE = SimpleNamespace(name="rl", part={"plan": prepare}.__getitem__)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a driver whose loop is ``work``, or whose set-up if it has not begun."""

    def run_with(work, *, has_begun=True):
        async def drive(stage, plan, run):
            begun = asyncio.Event()
            driver.listen_for_signals(run.stop, begun=begun)
            if has_begun:
                begun.set()
            return await work(run.stop)

        monkeypatch.setattr(driver, "_drive", drive)
        cfg = RLConfig(run=RunConfig(name="cut", dir=str(tmp_path)), tracking=QUIET)
        return driver.run_stage(STAGE, cfg, {})

    return run_with


def test_a_second_signal_ends_the_run_at_once_with_one_sentence(run, monkeypatch):
    monkeypatch.setattr(driver, "SAME_SIGNAL_S", 0.0)
    torn_down = []

    async def work(stop):
        os.kill(os.getpid(), signal.SIGINT)
        await stop.wait()
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(60)
        finally:
            torn_down.append(True)

    outcome = run(work)
    assert outcome.exit_code == 130 and torn_down
    assert outcome.message.startswith("interrupted, nothing was saved yet; run the same command")


def test_a_signal_during_set_up_ends_it_at_once(run, monkeypatch):
    """Nothing is lost, and loading a large model may take ten more minutes."""
    monkeypatch.setattr(driver, "SAME_SIGNAL_S", 60.0)
    torn_down = []

    async def work(stop):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # as launchers do: the tear-down is not cut short
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            torn_down.append(True)

    outcome = run(work, has_begun=False)
    assert outcome.exit_code == 130 and torn_down
    assert outcome.message == (
        "interrupted, nothing was saved yet; run the same command again to begin anew"
    )


def test_a_word_said_twice_at_once_is_one_word(run, monkeypatch):
    monkeypatch.setattr(driver, "SAME_SIGNAL_S", 60.0)

    async def work(stop):
        os.kill(os.getpid(), signal.SIGINT)
        await stop.wait()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.05)
        return driver.RunStatus.interrupted

    assert run(work).exit_code == 130


async def test_the_alarm_sees_what_was_going_on():
    """A dump that is written after everything was cancelled shows nothing."""
    seen = []

    async def work():
        await asyncio.create_task(asyncio.sleep(60), name="group 0:7")

    async def guard():
        await asyncio.sleep(0.05)
        raise RunStuck("nothing was finished")

    def alarm(error):
        seen.append(str(error))
        seen.extend(task.get_name() for task in asyncio.all_tasks())

    with pytest.raises(RunStuck):
        await driver.guarded(work(), by=guard(), alarm=alarm)
    assert seen[0] == "nothing was finished" and "group 0:7" in seen


def test_a_run_is_complete_when_its_last_step_is_exported(tmp_path, monkeypatch):
    """Extended and killed in the middle of the export, it holds the model of an older step."""
    directory = RunDirectory(root=tmp_path / "long")
    store = CheckpointStore(directory.checkpoints, keep=2)
    scratch = store.begin(20)
    (scratch / "driver.json").write_text('{"step": 20}')
    store.commit(scratch, step=20, config_hash="h")
    copy = shutil.copytree(directory.checkpoints / "step_000020", tmp_path / "best")
    directory.write_config({})

    async def drive(stage, plan, run):
        return RunStatus.done

    monkeypatch.setattr(driver, "_drive", drive)
    where = RunConfig(name="long", dir=str(tmp_path))
    cfg = RLConfig(run=where, tracking=QUIET, resume=str(copy))
    cfg.trainer.steps = 20
    for exported, complete in ((10, False), (20, True)):
        directory.export.mkdir(exist_ok=True)
        origin = ModelOrigin(base="b", stage="rl", run="long", step=exported, run_step=exported)
        write_model_card(directory.export, origin)
        outcome = driver.run_stage(STAGE, cfg, {})
        assert outcome.exit_code == 0
        assert ("is complete at step 20" in outcome.message) is complete
    assert "raise trainer.steps to train on" in outcome.message

    def prepare_epochs(cfg, *, directory, device):
        resolved = replace(cfg, trainer=replace(cfg.trainer, steps=20))
        return prepare(resolved, directory=directory, device=device)

    cfg.trainer.steps = None  # of a stage whose epochs say how long it is
    by_epochs = SimpleNamespace(name="sft", part={"plan": prepare_epochs}.__getitem__)
    assert "raise trainer.epochs to train on" in driver.run_stage(by_epochs, cfg, {}).message


def test_a_wish_ends_with_the_process_it_was_made_to(run, tmp_path):
    async def work(stop):
        return RunStatus.done

    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.yaml").write_text("seed: 0\n")  # by which it is a run's directory
    request_generators(tmp_path / "cut" / "scale_request.json", 9)
    assert run(work).exit_code == 0
    assert not (tmp_path / "cut" / "scale_request.json").exists()


def test_trackers_are_refused_before_anything_is_written(run, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no netrc with a key
    monkeypatch.setattr(QUIET, "wandb", WandbMode.online)
    with pytest.raises(UserError, match="WANDB_API_KEY"):
        run(None)
    assert not (tmp_path / "cut").exists()
