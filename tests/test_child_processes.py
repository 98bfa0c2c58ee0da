"""A child ends with its parent, also one that was killed."""

import signal
import subprocess
import sys

import psutil
import pytest

PARENT = """
import subprocess, sys, time
from rlpost.child_processes import ends_with_us
tied = ends_with_us() if sys.argv[1] == "tied" else None
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], preexec_fn=tied)
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["tied", "free"])
def test_a_child_ends_with_its_parent(kind):
    command = [sys.executable, "-c", PARENT, kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs([child], timeout=60 if kind == "tied" else 0.5)
    for each in alive:
        each.kill()
    assert bool(alive) is (kind == "free")
