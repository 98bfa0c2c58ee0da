"""The token: where it comes from, where it is needed, and that every path asks for it."""

import asyncio

import pytest

from rlpost.errors import UserError
from rlpost.stages.serve.access import TokenGuard, close_back_doors, read_token
from rlpost.stages.serve.config import ServeSettings

TOKEN = "0123456789abcdef"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


def test_a_token_comes_from_the_environment_or_from_a_private_file(tmp_path, monkeypatch):
    assert read_token(ServeSettings()) is None
    monkeypatch.setenv("TOKEN_OF_MINE", TOKEN)
    assert read_token(ServeSettings(token_env="TOKEN_OF_MINE", host="0.0.0.0")) == TOKEN
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o640)
    with pytest.raises(UserError, match=r"permissions 0640.*chmod 600"):
        read_token(ServeSettings(token_file=str(file)))
    file.chmod(0o600)
    assert read_token(ServeSettings(token_file=str(file))) == TOKEN


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"host": "0.0.0.0"}, "can be reached from other machines"),
        ({"host": "::"}, "can be reached from other machines"),
        ({"host": "no.such.host.invalid"}, "must be an address of this machine"),
        ({"token_env": TOKEN}, "name of an environment variable"),
        ({"token_env": "NOT_THERE"}, "no such variable"),
        ({"token_env": "SHORT"}, "at least 16 characters"),
        ({"token_env": "SPACED"}, "without spaces"),
        ({"token_file": "/"}, "cannot be read"),
        ({"token_file": "/dev/null"}, "must be a file"),
    ],
)  # fmt: skip
def test_what_is_no_token_is_refused_without_showing_it(settings, says, monkeypatch):
    monkeypatch.setenv("SHORT", "hunter2")
    monkeypatch.setenv("SPACED", "hunter2 hunter2 hunter2")
    with pytest.raises(UserError, match=says) as caught:
        read_token(ServeSettings(**settings))
    assert "hunter2" not in str(caught.value) and TOKEN not in str(caught.value)


def test_loopback_needs_none_and_a_key_of_vllm_alone_is_refused(monkeypatch):
    for host in ("127.0.0.1", "127.1.2.3", "localhost", "::1"):
        assert read_token(ServeSettings(host=host)) is None
    monkeypatch.setenv("VLLM_API_KEY", TOKEN)
    with pytest.raises(UserError, match="token_env=VLLM_API_KEY"):
        read_token(ServeSettings())
    assert read_token(ServeSettings(token_env="VLLM_API_KEY")) == TOKEN


def answered(path, *headers, kind="http"):
    """What the guard sends, or that it let the request pass."""
    sent = []

    async def app(scope, receive, send):
        sent.append("passed")

    async def send(message):
        sent.append(message)

    guard = TokenGuard(app, token=TOKEN)
    scope = {"type": kind, "path": path, "headers": [(b"authorization", h) for h in headers]}
    asyncio.run(guard(scope, None, send))
    return sent[0] if sent[0] == "passed" else sent[0].get("status") or sent[0]["code"]


def test_every_path_asks_but_for_health():
    known = f"Bearer {TOKEN}".encode()
    for path in ("/v1/models", "/invocations", "/tokenize", "/metrics", "/healthy", "/health/", ""):
        assert answered(path, known) == "passed"
        assert answered(path, f"bearer {TOKEN}".encode()) == "passed"
        for wrong in ((), (b"",), (known + b"0",), (TOKEN.encode(),), (b"Basic " + known[7:],)):
            assert answered(path, *wrong) == 401, (path, wrong)
        assert answered(path, known, known) == 401  # which of two would count?
    assert answered("/health") == "passed"
    assert answered("/v1/realtime", kind="websocket") == 1008
    assert answered("", kind="lifespan") == "passed"


def test_what_would_pass_by_the_checks_is_closed(monkeypatch):
    for name in ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_WORKER_MULTIPROC_METHOD"):
        monkeypatch.setenv(name, "1")
    import os

    before = dict(os.environ)
    try:
        close_back_doors()
        assert os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "0"
        assert os.environ["VLLM_SERVER_DEV_MODE"] == "0"
    finally:
        os.environ.clear()
        os.environ.update(before)
