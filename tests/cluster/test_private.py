"""A private session listens on loopback alone and has a token of its own."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from listening import listeners

from rlpost.cluster.private import TOKEN_VARIABLES, asks_for_token, read_token_anew, start_private
from rlpost.cluster.store_size import ANSWERS_BYTES
from rlpost.network import LOOPBACK

# What a user may have exported for a cluster of theirs.
FOREIGN = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": "/nowhere"}


@pytest.fixture
def start(monkeypatch):
    """Start a session where a user has exported a cluster's settings; returns its directory."""
    import ray

    for name in TOKEN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)

    def started() -> Path:
        start_private(store_bytes=ANSWERS_BYTES)
        context = ray.get_runtime_context()
        return Path(context.worker.node.get_session_dir_path())

    yield started
    ray.shutdown()


def test_nothing_listens_beyond_loopback_and_each_session_has_its_token(start, counted):
    import ray

    def token() -> str:
        return os.environ["RAY_AUTH_TOKEN"]

    tokens = []
    for _ in range(2):
        before = listeners(below=True)  # of what other tests have left in this process
        directory = start()
        assert asks_for_token()
        tokens.append(ray.get(ray.remote(token).options(num_cpus=0).remote()))
        assert {host for host, _ in listeners(below=True) - before} == {LOOPBACK}
        assert {n: os.environ[n] for n in TOKEN_VARIABLES if n in os.environ} == FOREIGN
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        for file in directory.rglob("*"):
            if file.is_file():
                assert tokens[-1].encode() not in file.read_bytes(), file
        ray.shutdown()
    assert len(set(tokens)) == 2 and min(map(len, tokens)) >= 32
    assert counted() == ["ray_sessions"] * 2


def test_the_listeners_of_a_plain_session_are_found(counted):
    """The negative control of the test above: Ray by itself listens on every interface."""
    script = (
        "import ray; from listening import listeners; "
        "ray.init(address='local', include_dashboard=False); "
        "print(*(host for host, _ in listeners(below=True)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[1], timeout=120, check=True,
        env=os.environ | {"RAY_AUTH_MODE": "disabled"}, capture_output=True, text=True,
    )  # fmt: skip
    assert set(result.stdout.split()) & {"::", "0.0.0.0"}
    assert counted() == ["ray_sessions"]


def test_the_token_is_read_anew(monkeypatch):
    # Threads of an earlier session use the token, and Ray aborts a process that lacks one.
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    for mode, asks in (("disabled", False), ("token", True), ("disabled", False)):
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        read_token_anew()
        assert asks_for_token() is asks


@pytest.fixture
def fake_ray(monkeypatch, tmp_path):
    """``ray.init`` and ``ray.shutdown`` as ``answers`` say; what was called."""
    import ray

    calls, answers = [], []

    def init(**options):
        calls.append(options["address"])
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return SimpleNamespace(
            address_info={"node_ip_address": answer, "session_dir": str(tmp_path)}
        )

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    return calls, answers


def test_a_session_that_starts_too_slowly_is_started_again(fake_ray):
    calls, answers = fake_ray
    answers += [Exception("The current node timed out during startup."), LOOPBACK]
    start_private(store_bytes=ANSWERS_BYTES)
    assert calls == ["local", "shutdown", "local"]


def test_a_session_that_leaves_loopback_is_ended(fake_ray):
    calls, answers = fake_ray
    answers.append("192.0.2.2")
    with pytest.raises(RuntimeError, match=r"listens on 192\.0\.2\.2 instead of loopback"):
        start_private(store_bytes=ANSWERS_BYTES)
    assert calls == ["local", "shutdown"]


# Ray's C++ aborts a process that is to send a token and has none; its Python raises instead.
FAILED_START = """
import ray
from ray._raylet import AuthenticationTokenLoader
from rlpost.cluster.private import start_private
from rlpost.cluster.store_size import ANSWERS_BYTES

def init(**options):
    raise OSError("no room")

ray.init = init
try:
    start_private(store_bytes=ANSWERS_BYTES)
except OSError as error:
    print(error)
loader = AuthenticationTokenLoader.instance()
print(*loader.get_token_for_http_header())
loader.reset_cache()  # the negative control
loader.get_token_for_http_header()
"""


def test_after_a_start_that_failed_ray_can_be_used(tmp_path):
    environment = {n: v for n, v in os.environ.items() if n not in TOKEN_VARIABLES}
    result = subprocess.run(
        [sys.executable, "-c", FAILED_START], env=environment | {"HOME": str(tmp_path)},
        cwd=Path(__file__).parents[2], timeout=120, capture_output=True, text=True,
    )  # fmt: skip
    assert result.stdout.split("\n") == ["no room", "authorization", ""]
    assert "AuthenticationError: Token authentication is enabled but" in result.stderr
