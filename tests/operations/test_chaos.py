"""Every kind of process dies once in a real run, which goes on and loses nothing."""

import random
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from chaos import Run, check, lines, recovery_s, saved

from rlpost.cli.main import main

DEADLINE_S = 240


def wait_until(run: Run, condition) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        log = (run.root / "run.log").read_text()[-3000:] if run.root.exists() else ""
        assert run.process.poll() is None, log
        assert time.monotonic() < deadline, log
        time.sleep(0.5)


def steps_done(run: Run) -> int:
    metrics = run.root / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path, steps=100_000)
    yield run
    if run.process.poll() is None:
        run.end()


@pytest.mark.timeout(900)
def test_every_process_may_die(run):
    rng = random.Random(0)
    wait_until(run, run.is_set_up)
    wait_until(run, lambda: steps_done(run) > 2)
    blows = [
        ("trainer rank", signal.SIGKILL),
        ("engine", signal.SIGKILL),
        ("verifier", signal.SIGKILL),
        ("generator", signal.SIGSTOP),
    ]
    for victim, blow in blows:
        kill = run.hit(victim, blow, rng)
        assert kill is not None, victim
        if victim != "verifier":  # its calls are repeated, without a word
            wait_until(run, lambda kill=kill: recovery_s(run, kill) is not None)
        before = steps_done(run)
        wait_until(run, lambda before=before: steps_done(run) > before + 1)
    assert main(["scale", str(run.root), "1"]) == 0
    wait_until(run, lambda: len(run.victims()["engine"]) == 1)
    run.process.send_signal(signal.SIGINT)
    run.process.wait(timeout=120)
    assert check(run, steps=saved(run)["step"], code=130) == []
    restarts = [text for _, text in lines(run) if "is restarted" in text]
    assert len(restarts) >= 2, restarts
    assert run.victims_left() == []
