"""A fork is to a test what a process of its own would be, but for the time of its imports."""

import os
import signal
import subprocess
import time

import psutil
import pytest
from forks import Forked

TELLS = """
import atexit, json, os, sys
atexit.register(lambda: print("ended"))
print(json.dumps({"argv": sys.argv, "place": os.getcwd(), "mask": os.umask(0)}))
print(json.dumps({"set": os.environ["SET"], "session": os.getsid(0) == os.getpid()}))
print(json.dumps({"imported": "torch" in sys.modules}))
sys.exit(int(sys.argv[1]))
"""
WAITS = """
import signal, sys, time
if "heeds" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
print("waits", flush=True)
try:
    time.sleep(100)
except KeyboardInterrupt:
    sys.exit(131)
"""


def start(tmp_path, code, *words, **options):
    script = tmp_path / "script.py"
    script.write_text(code)
    return Forked([str(script), *words], output=tmp_path / "output", **options)


@pytest.mark.parametrize("code", [0, 3])
def test_it_begins_and_ends_as_python_would(tmp_path, monkeypatch, code):
    monkeypatch.setenv("SET", "now")
    process = start(tmp_path, TELLS, str(code), place=tmp_path, umask=0o027)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == code
    for each in (f'"{tmp_path}/script.py", "{code}"', f'"place": "{tmp_path}"', '"mask": 23'):
        assert each in said, said
    for each in ('"set": "now"', '"session": true', '"imported": true', "ended"):
        assert each in said, said
    # Negative control: the process that the fork was made for would have to import first.
    plain = ["python", str(tmp_path / "script.py"), "0"]
    assert '"imported": false' in subprocess.check_output(plain, text=True)


def test_an_error_is_printed(tmp_path):
    process = start(tmp_path, "raise ValueError('why')")
    assert "ValueError: why" in process.communicate(timeout=120)[0]
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("number", "words", "code"),
    [
        (signal.SIGTERM, ["heeds"], 130),
        (signal.SIGTERM, [], -signal.SIGTERM),
        (signal.SIGINT, [], 131),
        (signal.SIGKILL, [], -signal.SIGKILL),
    ],
)
def test_its_group_is_signalled_as_a_terminal_does(tmp_path, number, words, code):
    process = start(tmp_path, WAITS, *words)
    while "waits" not in (tmp_path / "output").read_text():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, number)
    assert process.wait(timeout=60) == code
    assert not psutil.pid_exists(process.pid)


def test_a_deadline_is_kept(tmp_path):
    process = start(tmp_path, WAITS)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.1)
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
