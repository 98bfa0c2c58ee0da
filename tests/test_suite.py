"""What `make test` does when a test kills its process, and when one never ends."""

import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from empty_suite import make_empty_suite

ROOT = Path(__file__).parents[1]
WRONG = "def test_wrong():\n    assert 1 == 2\n"
CRASHES = WRONG + "def test_crashes():\n    __import__('os').abort()\n"
# Holds Python's lock, so no signal handler runs.
HANGS = (
    WRONG
    + """
def test_hangs():
    import ctypes
    open("hangs", "w").close()
    ctypes.PyDLL(None).sleep(1000)
"""
)
OTHERS = "".join(f"def test_{i}():\n    __import__('time').sleep(0.1)\n" for i in range(20))


@pytest.fixture
def suite(tmp_path):
    """Start the command of `make test` with ``first`` and another file in place of our tests."""
    make_empty_suite(tmp_path)
    (tmp_path / "test_b.py").write_text(OTHERS)
    dry = ["make", "--dry-run", "test"]
    lines = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    # Below another make it also says which directory it enters and leaves.
    (line,) = (each for each in lines.splitlines() if "--max-worker-restart" in each)
    limit, options = line.split(" .venv/bin/python ")
    assert options.endswith(" --ignore tests/operations")

    def start(first: str, *, without: str = "") -> subprocess.Popen[str]:
        (tmp_path / "test_a.py").write_text(first)
        rest = shlex.split(options.replace(without, ""))[:-2]
        command = [*shlex.split(limit), sys.executable, *rest, "-p", "no:cacheprovider"]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)

    return start


def test_a_worker_that_crashes_ends_the_suite(suite):
    with suite(CRASHES) as process:
        printed, _ = process.communicate(timeout=200)
    assert process.returncode == 1, printed
    assert "\nFAILED test_a.py::test_wrong (call): " in printed
    assert "\nFAILED test_a.py::test_wrong - assert 1 == 2" in printed
    assert "\nFAILED test_a.py::test_crashes - worker" in printed


def test_without_the_option_pytest_would_go_on(suite):
    """The negative control of the test above; whether it would ever end depends on the order."""
    with suite(CRASHES, without="--max-worker-restart 0") as process:
        assert any(line.startswith("replacing crashed worker") for line in process.stdout)
        process.terminate()


def test_a_suite_that_takes_too_long_says_what_failed_and_what_ran(suite, tmp_path):
    with suite(HANGS) as process:
        while not (tmp_path / "hangs").exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGALRM)  # as timeout's own clock does when the time is over
        printed, _ = process.communicate(timeout=200)
    assert process.returncode == 124, printed
    assert "\nFAILED test_a.py::test_wrong - assert 1 == 2" in printed
    assert re.search(r"\nINTERRUPTED while these ran: .*\btest_a\.py::test_hangs\b", printed), (
        printed
    )
