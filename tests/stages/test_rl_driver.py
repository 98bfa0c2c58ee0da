"""What a second Ctrl-C leaves behind; the first is tested on a real run in tests/system/."""

import asyncio
import os
import signal
from types import SimpleNamespace

import pytest

from rlpost.checkpoint.store import CheckpointStore
from rlpost.config.schema import RLConfig, RunConfig
from rlpost.stages import rl_driver
from rlpost.tracking.config import ConsoleMode, TrackingConfig, WandbMode

QUIET = TrackingConfig(wandb=WandbMode.disabled, console=ConsoleMode.quiet, report=False)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a driver whose loop is ``work``, and return the outcome."""

    def prepare(cfg, resolved, *, directory):
        store = CheckpointStore(directory.checkpoints, keep=1)
        return SimpleNamespace(directory=directory, resume_from=None, store=store)

    def run_with(work):
        async def drive(plan, tracker):
            stop = asyncio.Event()
            rl_driver._listen_for_signals(stop)
            return await work(stop)

        monkeypatch.setattr(rl_driver, "prepare", prepare)
        monkeypatch.setattr(rl_driver, "_drive", drive)
        cfg = RLConfig(run=RunConfig(name="cut", dir=str(tmp_path)), tracking=QUIET)
        return rl_driver.run_rl(cfg, {})

    return run_with


def test_a_second_signal_ends_the_run_at_once_with_one_sentence(run, monkeypatch):
    monkeypatch.setattr(rl_driver, "SAME_WORD_S", 0.0)
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


def test_a_word_said_twice_at_once_is_one_word(run):
    async def work(stop):
        os.kill(os.getpid(), signal.SIGINT)
        await stop.wait()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.05)
        return rl_driver.RunStatus.interrupted

    assert run(work).exit_code == 130
