"""No worker outlives its parent, however the parent ends and whatever the worker does."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

PARENT = """
    import asyncio, sys
    from rlpost.verifiers.base import Sample
    from rlpost.verifiers.kinds.function import FunctionConfig
    from rlpost.verifiers.workers.service import VerifierService

    service = VerifierService(
        {"f": FunctionConfig(path=sys.argv[1] + ":f", timeout_s=60)}, num_workers=2
    )
    warm = [Sample(prompt="q", text="") for _ in range(8)]

    async def main():
        await service.judge(warm)
        print("ready", flush=True)
        if sys.argv[2] == "busy":
            await service.judge([Sample(prompt="q", text="hang")] * 2)
        if sys.argv[2] == "idle":
            await asyncio.sleep(60)

    asyncio.run(main())
    if sys.argv[2] == "closed":
        service.close()
"""
# Time spent inside one C call: no Python thread of the worker could notice anything.
REWARDS = """
    import re
    def f(completions, **kwargs):
        if completions[0]:
            re.match("(a*)*$", "a" * 40 + "b")
        return [1.0]
"""


def _parent(tmp_path, mode):
    (tmp_path / "parent.py").write_text(textwrap.dedent(PARENT))
    (tmp_path / "rewards.py").write_text(textwrap.dedent(REWARDS))
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py", tmp_path / "rewards.py", mode],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert parent.stdout.readline() == "ready\n"
    return parent


@pytest.mark.parametrize("mode", ["busy", "idle"])
def test_workers_end_when_the_parent_is_killed(tmp_path, mode):
    parent = _parent(tmp_path, mode)
    workers = psutil.Process(parent.pid).children()
    assert len(workers) == 2
    time.sleep(0.3)
    assert all(worker.is_running() for worker in workers)
    parent.send_signal(signal.SIGKILL)
    parent.wait(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []


@pytest.mark.parametrize("mode", ["closed", "forgotten"])
def test_parent_that_ends_by_itself_leaves_nothing(tmp_path, mode):
    parent = _parent(tmp_path, mode)
    workers = [p for p in psutil.process_iter() if _is_worker_of(p, parent.pid)]
    assert parent.wait(timeout=60) == 0
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []


def _is_worker_of(process, pid):
    try:
        return process.ppid() == pid
    except psutil.Error:
        return False
