"""Members as processes: how many at a time, what a kill and a signal do to the others."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from rlpost.errors import UserError
from rlpost.launch.sweep.launcher import ProcessLauncher, RayJobLauncher
from rlpost.launch.sweep.sweep import Sweep
from rlpost.tracking.files.sweep_record import MemberState, read_members

# A launcher whose members are scripts: `driver.py DIRECTORY N_JOBS SCRIPT...`
DRIVER = """
import asyncio, sys
from pathlib import Path
from rlpost.launch.sweep.sweep import Sweep
from rlpost.launch.sweep.launcher import ProcessLauncher
from rlpost.tracking.files.sweep_record import MemberRecord, write_member

directory, n_jobs, *scripts = sys.argv[1:]
sweep = Sweep(stage="rl", name="s", directory=Path(directory), keys=(), found_by=(), argv=(),
              token="t")
launcher = ProcessLauncher(n_jobs=int(n_jobs))
launcher._sweep = sweep
planned = []
for number, script in enumerate(scripts):
    record = MemberRecord(name=f"m{number}", number=number, run_dir=f"m{number}", overrides=(),
                          token="t")
    write_member(sweep.directory, record)
    planned.append((record, [sys.executable, "-c", script]))
asyncio.run(launcher._run(planned))
"""
COUNT = """
import os, time
from pathlib import Path
mark, begun = (Path(each) / str(os.getpid()) for each in ("running", "begun"))
mark.touch(); begun.touch()
while len(list(begun.parent.iterdir())) < 2: time.sleep(0.01)
time.sleep(0.3)
Path(f"seen-{os.getpid()}").write_text(str(len(list(mark.parent.iterdir()))))
mark.unlink()
"""
SAVE = """
import signal, sys, time
from pathlib import Path
got = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: got.append(number))
Path("up-NAME").touch()
while not got: time.sleep(0.02)
time.sleep(0.5)
Path("saved-NAME").write_text(str(len(got))); sys.exit(130)
"""


@pytest.fixture
def launch(tmp_path):
    started = []

    def start(n_jobs, *scripts) -> subprocess.Popen:
        for name in ("running", "begun"):
            (tmp_path / name).mkdir()
        command = [sys.executable, "-c", DRIVER, str(tmp_path / "sweep"), str(n_jobs), *scripts]
        started.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _wait_for(condition, what):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.02)


def _states(place):
    return {each.name: each.state for each in read_members(place / "sweep")}


def test_no_more_than_n_jobs_run_at_a_time(launch, tmp_path):
    assert launch(2, *[COUNT] * 5).wait(60) == 0
    seen = [int(path.read_text()) for path in tmp_path.glob("seen-*")]
    assert len(seen) == 5 and max(seen) == 2
    assert set(_states(tmp_path).values()) == {MemberState.done}


def test_each_failure_is_its_own(launch, tmp_path):
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    refused = "import sys; print('working\\nerror: a\\nb'); sys.exit(2)"
    crashed = "raise RuntimeError('boom')"
    assert launch(1, killed, refused, crashed, "pass").wait(60) == 0
    records = {each.name: each for each in read_members(tmp_path / "sweep")}
    assert [each.exit_code for each in records.values()] == [-9, 2, 1, 0]
    assert [each.message for each in records.values()] == [
        "killed by SIGKILL",
        "a b",
        "RuntimeError: boom",
        "",
    ]
    assert _states(tmp_path)["m3"] is MemberState.done


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_members_save_and_starts_no_more(launch, tmp_path, number):
    scripts = [SAVE.replace("NAME", name) for name in "abc"]
    process = launch(2, *scripts)
    _wait_for(lambda: len(list(tmp_path.glob("up-*"))) == 2, "both members")
    process.send_signal(number)
    process.communicate(timeout=60)
    saved = {path.name: path.read_text() for path in tmp_path.glob("saved-*")}
    assert saved == {"saved-a": "1", "saved-b": "1"}  # once: twice would mean at once
    assert list(_states(tmp_path).values()) == [
        MemberState.interrupted,
        MemberState.interrupted,
        MemberState.waiting,
    ]


def test_a_killed_sweep_lets_its_members_save(launch, tmp_path):
    process = launch(1, SAVE.replace("NAME", "a"))
    _wait_for(lambda: (tmp_path / "up-a").exists(), "the member")
    (member,) = psutil.Process(process.pid).children()
    os.kill(process.pid, signal.SIGKILL)
    _wait_for(lambda: (tmp_path / "saved-a").exists(), "what the member saves")
    _wait_for(lambda: not member.is_running(), "the member's end")


def _sweep(**changes):
    options = {"stage": "rl", "name": "s", "directory": Path("runs/s"), "keys": ("seed",),
               "found_by": (), "argv": (), "token": "t"}  # fmt: skip
    return Sweep(**{**options, **changes})


def test_a_member_is_a_command_that_a_person_can_type():
    overrides = ["experiment=quickstart", "seed=1", "run.name=x", "+tracking.group=mine"]
    command = ProcessLauncher(1).command(_sweep(), "x-seed=1", overrides, group="mine")
    assert command[1:] == ["-m", "rlpost.cli.main", "rl", "experiment=quickstart", "seed=1",
                           "run.name='x-seed=1'", "tracking.group='mine'"]  # fmt: skip


def test_a_ray_job_is_a_submission_under_the_members_name():
    launcher = RayJobLauncher(n_jobs=2, address="http://head:8265")
    command = launcher.command(_sweep(), "x-seed=1", ["seed=1"], group="s")
    assert command[3:] == ["submit", "--address", "http://head:8265", "--name", "x-seed=1", "rl",
                           "seed=1", "run.name='x-seed=1'", "tracking.group='s'"]  # fmt: skip
    task = SimpleNamespace(sweep=_sweep(found_by=("--config-dir=x",)))
    with pytest.raises(UserError, match="is not known on the cluster"):
        launcher.setup(hydra_context=None, task_function=task, config=None)


def test_at_least_one_member_runs_at_a_time():
    with pytest.raises(UserError, match=r"hydra\.launcher\.n_jobs must be in \[1, .*got 0"):
        ProcessLauncher(0)
