import contextlib
import dataclasses
import os
import textwrap
import threading
import time

import psutil
import pytest

from rlpost.errors import InfrastructureError
from rlpost.verifiers.base import Sample
from rlpost.verifiers.kinds.function import FunctionConfig
from rlpost.verifiers.workers.sandbox import Sandbox, SandboxClosed
from rlpost.verifiers.workers.wire import encode_sample

# The completion is the source of what the judge does.
EXECUTE = """
    def f(completions, **kwargs):
        scope = {}
        exec(completions[0], scope)
        return [scope.get("reward", 1.0)]
"""


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    file = tmp_path_factory.mktemp("sandbox") / "rewards.py"
    file.write_text(textwrap.dedent(EXECUTE))
    return {"f": FunctionConfig(path=f"{file}:f")}


@pytest.fixture
def sandbox(configs):
    sandbox = Sandbox(configs)
    yield sandbox
    sandbox.close()
    assert not sandbox.alive


def _call(sandbox, source, *, timeout_s=10.0):
    sample = Sample(prompt="q", text=textwrap.dedent(source))
    [reply] = sandbox.call("f", [encode_sample(sample)], timeout_s=timeout_s)
    return reply["reward"] if reply["error"] is None else reply["error"]


def _pid(sandbox):
    """The worker, seen from outside: the last of the chain below the guard."""
    assert _call(sandbox, "") == 1.0
    return psutil.Process(sandbox.pid).children(recursive=True)[-1].pid


def test_same_worker_serves_many_calls(sandbox):
    assert _pid(sandbox) == _pid(sandbox) != os.getpid()
    assert sandbox.num_starts == 1


@pytest.mark.parametrize(
    "source",
    [
        "while True: pass",
        "import re; re.match('(a*)*$', 'a' * 40 + 'b')",  # C code that holds the interpreter
        "import time; time.sleep(60)",
        "while True: print('x' * 1000)",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
    ],
)
def test_deadline_kills_the_worker_and_the_next_call_works(sandbox, source):
    before = _pid(sandbox)
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        _call(sandbox, source, timeout_s=0.3)
    assert time.monotonic() - start < 30  # the attacks go on for a minute, or for ever
    assert not psutil.pid_exists(before)
    assert _pid(sandbox) != before


def test_deadline_kills_what_the_judge_started(sandbox):
    duration = f"{1000 + time.monotonic_ns() % 10**9}"
    source = f"""
        import os, time
        if os.fork() == 0:
            os.setsid()
            os.execvp("sleep", ["sleep", {duration!r}])
        time.sleep(60)
    """
    with pytest.raises(TimeoutError):
        _call(sandbox, source, timeout_s=1.5)
    assert [p for p in psutil.process_iter() if _sleeps(p, duration)] == []


def _sleeps(process, duration):
    try:
        return process.cmdline() == ["sleep", duration]
    except psutil.Error:
        return False


@pytest.mark.parametrize(
    ("source", "how"),
    [
        ("import os; os._exit(5)", r"worker died \(exit code 5\)"),
        ("import os; os.kill(os.getpid(), 9)", r"worker died \(killed by SIGKILL\)"),
        ("import ctypes; ctypes.string_at(0)", r"worker died \(killed by SIGSEGV\)"),
        ("import os; print('why', flush=True); os.abort()", r"SIGABRT\); it last printed: .*why"),
        ("import os; os.closerange(3, 4096)", r"worker died"),
    ],
)
def test_death_is_an_infrastructure_error(sandbox, source, how):
    with pytest.raises(InfrastructureError, match=how):
        _call(sandbox, source)
    assert _call(sandbox, "reward = 0.5") == 0.5


@pytest.mark.parametrize(
    "source",
    [
        "print('x' * 10**7)",
        "import sys; sys.stdout.write('{\"reward\": 5}\\n'); sys.stderr.write('noise')",
        "import os; os.write(1, b'\\xff' * 10**6); os.close(1); os.close(2)",
        "import sys; sys.stdin.read()",
        "import os\nif os.fork() == 0: reward = 99.0",
    ],
)
def test_noise_changes_nothing(sandbox, source):
    assert _call(sandbox, source) == 1.0
    assert _call(sandbox, "reward = 0.5") == 0.5
    assert sandbox.num_starts == 1


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("raise ValueError('no')", "ValueError: no"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("class E(BaseException): pass\nraise E('odd')", "E: odd"),
        ("reward = lambda: 1", "TypeError: the verifier returned function"),
        ("reward = 'x' * 10**8", "TypeError: the verifier returned str"),
        ("reward = float('nan')", "ValueError: the verifier returned nan"),
    ],
)
def test_exceptions_and_odd_results_leave_the_worker_alive(sandbox, source, error):
    assert error in _call(sandbox, source)
    assert _call(sandbox, "reward = 0.5") == 0.5
    assert sandbox.num_starts == 1


# Writes frames of its own to the worker's socket; ``number()`` is that of the present request.
FORGE = """
import json, os, stat, struct, sys
def write(data):
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if fd > 2 and stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, data)
        except OSError:
            pass
def forge(id, reward=99.0, **others):
    reply = {"reward": reward, "error": None, "info": {}} | others
    data = json.dumps({"id": id, "replies": [reply]}).encode()
    write(struct.pack("!Q", len(data)) + data)
def number():
    frame = sys._getframe()
    while "request" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["request"]["id"]
"""


@pytest.mark.parametrize(
    "source",
    [
        "forge('0' * 32)",
        "forge(None)",
        "forge(number(), reward=float('nan'))",
        "forge(number(), reward='99')",
        "forge(number(), reward=None)",
        "forge(number(), verifier='another')",
        "forge(number(), info={'deep': [[]]})",
        "write(b'garbage' * 1000)",
        "write(struct.pack('!Q', 4) + b'oops')",
        "write(struct.pack('!Q', 1 << 60))",
    ],
)
def test_forged_reply_costs_the_worker_and_is_no_reward(sandbox, source):
    with pytest.raises(InfrastructureError, match=r"worker killed \(.+\)"):
        _call(sandbox, FORGE + source)
    assert _call(sandbox, "reward = 0.5") == 0.5
    assert sandbox.num_starts == 2


@pytest.mark.parametrize("source", ["forge(number())", "forge(number()); forge(number())"])
def test_forged_reply_never_answers_for_the_next_sample(sandbox, source):
    assert _call(sandbox, FORGE + source) == 99.0  # as good as returning it
    with contextlib.suppress(InfrastructureError):  # the worker may not have replied yet
        assert _call(sandbox, "reward = 0.25") == 0.25
    for i in range(4):
        assert _call(sandbox, f"reward = {i / 4}") == i / 4
    assert sandbox.num_starts == 2


def test_worker_killed_while_idle_is_replaced(sandbox):
    before = _pid(sandbox)
    worker = psutil.Process(before)
    os.kill(before, 9)
    psutil.wait_procs([worker], timeout=30)
    assert _pid(sandbox) != before


def test_one_thread_per_library(sandbox):
    assert _call(sandbox, "import os; reward = float(os.environ['OMP_NUM_THREADS'])") == 1.0


def test_keys_stay_outside_unless_named(configs, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "0.25")
    monkeypatch.setenv("JUDGE_KEY", "0.75")
    read = "import os; reward = float(os.environ.get({!r}, -1))"
    sandbox = Sandbox({"f": dataclasses.replace(configs["f"], env=["JUDGE_KEY"])})
    try:
        assert _call(sandbox, read.format("HF_TOKEN")) == -1
        assert _call(sandbox, read.format("JUDGE_KEY")) == 0.75
    finally:
        sandbox.close()


def test_named_key_that_this_host_lacks_is_an_error(configs):
    sandbox = Sandbox({"f": dataclasses.replace(configs["f"], env=["RLPOST_NOWHERE"])})
    with pytest.raises(InfrastructureError, match=r"verifier\.env names RLPOST_NOWHERE, which"):
        sandbox.start()


def test_interrupt_ends_a_call_and_refuses_the_next(sandbox):
    sandbox.wait_ready()
    threading.Timer(0.2, sandbox.interrupt).start()
    with pytest.raises(InfrastructureError, match="worker died"):
        _call(sandbox, "while True: pass", timeout_s=250)
    with pytest.raises(SandboxClosed):
        _call(sandbox, "reward = 1.0")


def test_slow_start_is_not_charged_to_the_sample(tmp_path):
    file = tmp_path / "rewards.py"
    file.write_text("import time\ntime.sleep(1.6)\ndef f(completions): return [1.0]\n")
    sandbox = Sandbox({"f": FunctionConfig(path=f"{file}:f")})
    try:
        assert _call(sandbox, "", timeout_s=1.5) == 1.0
    finally:
        sandbox.close()
