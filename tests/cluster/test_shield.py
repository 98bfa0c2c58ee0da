"""A SIGTERM that was blocked stays so, in a process that shares memory."""

import signal
import subprocess
import sys

import pytest

SHARES_MEMORY = """
import os, signal, sys
from multiprocessing import get_context
from rlpost.cluster.shield import keep_blocked

blocked, shielded = (word == "yes" for word in sys.argv[1:])
if blocked:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
if shielded:
    keep_blocked()
get_context("spawn").Semaphore()  # starts the tracker of shared memory
os.kill(os.getpid(), signal.SIGTERM)
print("alive")
"""


@pytest.mark.parametrize(
    ("blocked", "shielded", "alive"),
    [
        ("yes", "yes", True),
        ("yes", "no", False),  # what Python's own multiprocessing does
        ("no", "yes", False),  # nobody asked for it
    ],
)
def test_sigterm_stays_blocked_where_it_was(blocked, shielded, alive):
    result = subprocess.run(
        [sys.executable, "-c", SHARES_MEMORY, blocked, shielded], capture_output=True, text=True
    )
    assert (result.stdout == "alive\n") is alive, result
    assert result.returncode == (0 if alive else -signal.SIGTERM)
