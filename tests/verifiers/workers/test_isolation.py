"""The walls around a worker, with and without a PID namespace, as this user and as nobody."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from rlpost.verifiers.workers import isolation
from rlpost.verifiers.workers.isolation import END, SIGNALLED

NOBODY = 65534
PYTHON = os.path.realpath(sys.executable)
# Nobody may not be able to read this checkout: the source comes through standard input.
READ = (
    "import sys; __name__ = 'source'; exec(compile(sys.stdin.read(), 'source', 'exec'), globals())"
)
ISOLATED = """
import json, sys
walls = isolate(int(sys.argv[2]), channel=os.open("/dev/null", os.O_RDONLY), namespace=NAMESPACE)
"""
# Leaves its session, is nobody's child, and ignores what can be ignored.
DAEMON = """
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        os.execvp("sleep", ["sleep", sys.argv[1]])
"""


def _nobody_runs_python():
    try:
        subprocess.run([PYTHON, "-c", ""], cwd="/", user=NOBODY, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False  # only root can try, and only where nobody can read the interpreter
    return True


USERS = [None, NOBODY] if _nobody_runs_python() else [None]


@pytest.fixture(params=[True, False], ids=["namespace", "reaper"])
def namespace(request):
    return request.param


@pytest.fixture(params=USERS, ids=lambda user: "self" if user is None else "nobody")
def start(request, namespace):
    """Starts a process that executes ``code`` within the walls; ``marker`` names its daemons."""
    identity = {} if request.param is None else {"user": request.param, "group": request.param}
    started = []

    def start(code, marker="60", **options):
        process = subprocess.Popen(
            [PYTHON, "-c", READ, marker, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            start_new_session=True,
            **identity,
            **options,
        )
        started.append(process)
        process.stdin.write(_source(namespace) + textwrap.dedent(code))
        process.stdin.close()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(10)
        process.stdout.close()


def _source(namespace):
    walls = ISOLATED.replace("NAMESPACE", str(namespace))
    return Path(isolation.__file__).read_text() + walls + DAEMON


def _said(process):
    """Return what an isolated process printed as JSON, once it ended well."""
    output = process.stdout.read()
    assert process.wait(60) == 0, output
    return json.loads(output)


def _marker():
    return f"{1000 + time.monotonic_ns() % 10**9}"


def _daemons(marker):
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() == "sleep" and process.cmdline()[1:] == [marker]:
                found.append(process)
        except psutil.Error:
            pass
    return found


def _wait_for_daemons(marker, number):
    deadline = time.monotonic() + 60
    while len(_daemons(marker)) != number:
        assert time.monotonic() < deadline, f"{len(_daemons(marker))} daemons, not {number}"
        time.sleep(0.02)


@pytest.fixture
def go():
    """A file that does not exist yet, and that anybody could see."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "go"


WAIT = "\nwhile not os.path.exists({!r}): time.sleep(0.01)"


def test_daemons_end_with_the_worker(start, go):
    marker = _marker()
    process = start("daemon(); daemon()" + WAIT.format(str(go)), marker)
    _wait_for_daemons(marker, 2)
    go.touch()
    assert process.wait(60) == 0
    assert _daemons(marker) == []


def test_daemons_end_when_the_guard_is_told(start):
    marker = _marker()
    process = start("daemon(); time.sleep(600)", marker)
    _wait_for_daemons(marker, 1)
    process.send_signal(END)
    assert process.wait(60) == SIGNALLED + signal.SIGKILL
    assert _daemons(marker) == []


# Starts what the rest of its command line says, with its own process as the parent.
STARTER = """
import os, subprocess, sys
child = subprocess.Popen([*sys.argv[1:], str(os.getpid())], stdin=subprocess.PIPE, text=True)
child.stdin.write(sys.stdin.read())
child.stdin.close()
child.wait()
"""


def test_daemons_end_when_the_parent_is_killed(namespace):
    marker = _marker()
    parent = subprocess.Popen(
        [PYTHON, "-c", STARTER, PYTHON, "-c", READ, marker], stdin=subprocess.PIPE, text=True
    )
    with parent.stdin as source:
        source.write(_source(namespace) + "daemon(); time.sleep(600)")
    _wait_for_daemons(marker, 1)
    family = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait(60)
    _wait_for_daemons(marker, 0)
    assert psutil.wait_procs(family, timeout=60)[1] == []


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("os._exit(7)", 7),
        ("os.kill(os.getpid(), signal.SIGKILL)", SIGNALLED + signal.SIGKILL),
        ("os.abort()", SIGNALLED + signal.SIGABRT),
        ("ctypes.string_at(0)", SIGNALLED + signal.SIGSEGV),
        ("os.kill(0, signal.SIGKILL)", SIGNALLED + signal.SIGKILL),
    ],
)
def test_the_guard_tells_how_the_worker_ended(start, code, status):
    assert start(code).wait(30) == status


# What the kernel refused; each attack on the process TARGET would work without walls.
ATTACKS = """
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments):
        raise OSError(ctypes.get_errno(), name)
def refused(**attacks):
    names = []
    for name, attack in attacks.items():
        try:
            attack()
        except OSError:
            names.append(name)
    return names
def looks(target):
    return refused(
        environ=lambda: open(f"/proc/{target}/environ").read(),
        memory=lambda: open(f"/proc/{target}/mem", "r+b").close(),
        trace=lambda: call("ptrace", 0x4206, target, 0, 0),  # PTRACE_SEIZE
    )
def signals(target):
    return refused(signal=lambda: os.kill(target, signal.SIGTERM))
"""
LOOKS, SIGNALS = ["environ", "memory", "trace"], ["signal"]


@pytest.fixture
def target(request):
    """A process of the isolated one's user that is none of its business."""
    nobody = "nobody" in request.node.callspec.id
    identity = {"user": NOBODY, "group": NOBODY} if nobody else {}
    process = subprocess.Popen(["sleep", "60"], cwd="/", **identity)
    yield process
    process.kill()
    process.wait(10)


def test_other_processes_are_out_of_reach(start, target):
    code = f"""
walls = [walls.hides_processes, walls.blocks_signals]
print(json.dumps([walls, looks({target.pid}), signals({target.pid})]))
"""
    (hides, blocks), looks, signals = _said(start(ATTACKS + code))
    assert (looks, signals) == (LOOKS if hides else [], SIGNALS if blocks else [])
    assert not blocks or target.poll() is None


def test_without_walls_they_are_within_reach(target_of_self):
    code = f"import ctypes, os, signal\n{ATTACKS}\nprint(looks({target_of_self.pid}))"
    code += f"\nprint(signals({target_of_self.pid}))"
    output = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.split("\n")[:2] == ["[]", "[]"]
    assert target_of_self.wait(10) == -signal.SIGTERM


@pytest.fixture
def target_of_self():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait(10)


# In a process of its own: the walls around this one cannot be taken down again.
OLDER_KERNEL = """
_prctl(_PR_SET_NO_NEW_PRIVS, 1)
_drop_capabilities(kept=_KEPT)
os.mkdir("a"); os.mkdir("b"); open("a/file", "w").close()
print(json.dumps([_landlock(VERSION), looks(TARGET), signals(TARGET), os.rename("a/file", "b/c")]))
"""


@pytest.mark.parametrize("version", [v for v in (2, 5) if v <= isolation._landlock_version()])
def test_older_kernels_hide_what_they_can(version, target_of_self, tmp_path):
    code = Path(isolation.__file__).read_text() + "import json\n" + ATTACKS + OLDER_KERNEL
    code = code.replace("VERSION", str(version)).replace("TARGET", str(target_of_self.pid))
    output = subprocess.run(
        [PYTHON, "-c", READ], input=code, cwd=tmp_path, capture_output=True, text=True
    )
    assert json.loads(output.stdout) == [version, LOOKS, [], None], output.stderr


# Where nothing blocks signals, the second of these would end every process of the user.
GUARDS = """
tried = walls.blocks_signals and refused(
    guard=lambda: os.kill(os.getppid(), signal.SIGKILL),
    everyone=lambda: os.kill(-1, signal.SIGKILL),
    unmount=lambda: call("umount2", b"/proc", 2),
)
print(json.dumps([walls.blocks_signals, tried]))
"""


def test_the_guard_cannot_be_attacked(start):
    blocks, tried = _said(start(ATTACKS + GUARDS))
    assert not blocks or {"guard", "unmount"} <= set(tried)


def test_ordinary_programs_work(start, tmp_path):
    tmp_path.chmod(0o777)
    code = """
        import subprocess, tempfile, threading
        os.chdir(tempfile.mkdtemp())
        os.mkdir("a"); os.mkdir("b"); open("a/file", "w").close()
        os.rename("a/file", "b/file")
        thread = threading.Thread(target=os.getpid)
        thread.start(); thread.join()
        child = subprocess.Popen(["sleep", "60"])
        child.terminate()
        pipe = subprocess.run(["sh", "-c", "echo $PPID | cat"], capture_output=True, text=True)
        own = int(open("/proc/self/stat").read().split()[0])
        said = [child.wait(10), int(pipe.stdout) == os.getpid(), os.listdir("b")]
        said.append(own == os.getpid() or not walls.namespace)
        said.append(os.access(f"/proc/{os.getpid()}/fd", os.R_OK))
        print(json.dumps(said))
    """
    assert _said(start(code)) == [-signal.SIGTERM, True, ["file"], True, True]


def test_a_blocked_sigterm_stays_blocked(start, go):
    block = {"preexec_fn": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})}
    code = "print(json.dumps(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    assert _said(start(code)) is False
    assert _said(start(code, **block)) is True
    process = start("daemon()" + WAIT.format(str(go)), marker := _marker(), **block)
    _wait_for_daemons(marker, 1)
    process.send_signal(signal.SIGTERM)  # a scheduler's, to all processes of the run
    go.touch()
    assert process.wait(60) == 0
