"""Judges that attack their worker: each costs itself at most, and never the next sample.

The completion is the source of what the judge does. All run on one worker, one after another.
"""

import asyncio
import textwrap

import psutil
import pytest

from rlpost.verifiers.base import TIMEOUT, Sample
from rlpost.verifiers.kinds.function import FunctionConfig
from rlpost.verifiers.workers.service import VerifierService

EXECUTE = """
    import os
    def f(completions, **kwargs):
        scope = {}
        exec(completions[0], scope)
        return [scope.get("reward", 1.0)]
"""
# attack -> what its own verdict is: a reward, or the beginning of an error
KEEP_THE_WORKER = {
    "import sys; sys.exit(0)": "SystemExit",
    "raise GeneratorExit": "GeneratorExit",
    "raise StopIteration": "StopIteration",
    "raise ValueError('\\ud800')": "ValueError: ?",
    "class E(Exception):\n def __str__(self): raise SystemExit\nraise E": "E: <exception str()",
    "def f(): return f()\nf()": "RecursionError",
    "import sys; sys.setrecursionlimit(80)": 1.0,
    "reward = 'x' * 10**7": "TypeError",
    "reward = {str(i): 'x' * 10**4 for i in range(1000)} | {'reward': 0.5}": 0.5,
    "reward = float('inf')": "ValueError",
    "reward = 10**400": "OverflowError",
    "class F:\n __class__ = float\n def __float__(self): return float('nan')\nreward = F()": (
        "ValueError"
    ),
    "class F(float):\n def __repr__(self): return 'NaN'\nreward = F(0.25)": 0.25,
    "class S(str):\n def encode(self): raise SystemExit\nreward = {'reward': 1, 'a': S('x')}": 1.0,
    "import sys; sys.stdout.write('x' * 10**7)": 1.0,
    "import sys; [sys.modules.pop(m) for m in list(sys.modules) if 'rlpost' in m]": 1.0,
    "import sys; [sys.modules.pop(m) for m in ('json', 'socket', 'os')]": 1.0,
    "import json; json.dumps = json.loads = lambda *a, **k: '{}'": 1.0,
    "import os; os.chdir('/'); os.umask(0o777)": 1.0,
    "import threading, time; threading.Thread(target=time.sleep, args=(1000,)).start()": 1.0,
    "import atexit, time; atexit.register(time.sleep, 1000)": 1.0,
    "import os; reward = float(any('KEY' in name for name in os.environ))": 0.0,
}
COST_THE_WORKER = {
    "import os; os._exit(0)": "worker died (exit code 0)",
    "import os; os.kill(0, 9)": "worker died (killed by SIGKILL)",
    "import os; os.closerange(0, 4096)": "worker died",
    "import signal; signal.raise_signal(signal.SIGALRM)": "worker died (killed by SIGALRM)",
    "import json.encoder; json.encoder.JSONEncoder.encode = lambda self, o: '{}'": "worker killed",
    "import builtins; builtins.float = int": "worker killed (a reward is not a finite number)",
    "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)": TIMEOUT,
    "import socket; socket.socket.sendall = lambda *a: None": TIMEOUT,
    "import sys\nwhile True: sys.stdout.write('x' * 10**6)": TIMEOUT,
    "class E(Exception):\n def __str__(self):\n  while True: pass\nraise E": TIMEOUT,
    # Two hundred processes that double twice, and sleep.
    "import os, time\n"
    "for _ in range(50):\n if not os.fork():\n  os.fork(); os.fork(); time.sleep(60)\n"
    "time.sleep(60)": TIMEOUT,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    file = tmp_path_factory.mktemp("hostile") / "rewards.py"
    file.write_text(textwrap.dedent(EXECUTE))
    cfg = FunctionConfig(path=f"{file}:f", timeout_s=1.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_KEY", "x")
        service = VerifierService({"f": cfg}, num_workers=1)
        yield service
        service.close()
    assert [p for p in psutil.Process().children() if _is_worker(p)] == []


def _is_worker(process):
    return "rlpost.verifiers.workers.worker" in process.cmdline()


def _judge(service, source):
    [(verdict,)] = asyncio.run(service.judge([Sample(prompt="q", text=source)]))
    return verdict.reward if verdict.error is None else verdict.error


@pytest.mark.parametrize(("source", "expected"), (KEEP_THE_WORKER | COST_THE_WORKER).items())
def test_an_attack_stays_with_its_sample(service, source, expected):
    got = _judge(service, source)
    assert got == expected or str(got).startswith(str(expected))
    assert [_judge(service, f"reward = {i / 4}") for i in range(3)] == [0.0, 0.25, 0.5]


def test_harmless_attacks_cost_no_worker(service):
    _judge(service, "reward = 1.0")
    before = service.num_lost()
    for source in KEEP_THE_WORKER:
        _judge(service, source)
    assert service.num_lost() == before
