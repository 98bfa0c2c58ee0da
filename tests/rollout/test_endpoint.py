"""A model behind a real HTTP server: what is asked, what is an answer, and what is a failure."""

import threading
from dataclasses import replace

import pytest
from chat_server import chat_server, completion

from rlpost.bounds import check_config
from rlpost.errors import NoAnswer, RunFailed, UserError
from rlpost.rollout.endpoint import Endpoint
from rlpost.rollout.endpoint_settings import EndpointConfig
from rlpost.types import GenerationRequest, Prompt, SamplingConfig

MESSAGES = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"})
KEY = "sk-very-secret"
REQUEST = GenerationRequest(
    key="train/0:1",
    prompt=Prompt(uid="0:1", token_ids=(1,), text="2 + 2?", conversation=MESSAGES),
    num_samples=3,
    seed=2**40 + 7,
    sampling=SamplingConfig(max_tokens=16, temperature=0.5),
)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("A_KEY", KEY)


def settings(url, **options):
    return EndpointConfig(url=url, model="teacher", api_key_env="A_KEY", **options)


async def asked(server, request=REQUEST, **options):
    async with Endpoint(cfg=settings(server.url, **options)) as endpoint:
        return await endpoint.generate(request)


async def test_each_response_is_a_request_with_a_seed_of_its_own():
    with chat_server(lambda body: completion(f"4, seed {body['seed']}")) as server:
        episodes = await asked(server)
    assert [each.text for each in episodes] == [f"4, seed {seed}" for seed in (7, 8, 9)]
    assert [each.seed - REQUEST.seed for each in episodes] == [0, 1, 2]
    assert [(each.sample, each.uid) for each in episodes] == [(n, "0:1") for n in range(3)]
    assert {each.finish_reason for each in episodes} == {"stop"}
    path, header, body = server.seen[0]
    assert (path, header) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert body["messages"] == list(MESSAGES) and "tools" not in body
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("teacher", 0.5, 16)


BAD = {
    "overloaded": (429, {"error": "slow down"}),
    "broken": (500, b"<html>oops"),
    "no JSON": (200, b"<html>welcome"),
    "nested": (200, b"[" * 100_000),
    "endless": (200, b'{"choices": "' + b"x" * (2**26)),
    "no choices": (200, {"error": "none"}),
    "a list": (200, [1, 2]),
    "empty": completion(""),
    "blank": completion(" \n"),
    "nothing": completion(None),
    "cut and empty": completion("", end="length"),
    "refused": completion("I can", end="content_filter"),
    "a call": completion(None, end="tool_calls"),
    "moved": (302, b""),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_is_no_whole_answer_is_a_failure_and_the_others_are_kept(name):
    calls = 0

    def answer(body):
        nonlocal calls
        calls += 1
        return BAD[name] if calls == 2 else completion("4")

    with chat_server(answer) as server:
        async with Endpoint(cfg=settings(server.url)) as endpoint:
            with pytest.raises(NoAnswer, match=server.url):
                await endpoint.generate(REQUEST)
            episodes = await endpoint.generate(REQUEST)
    assert [each.text for each in episodes] == ["4"] * 3
    assert len(server.seen) == 4


@pytest.mark.parametrize(("status", "way"), [(401, "api_key_env"), (404, "endpoint.model")])
async def test_what_no_retry_can_mend_ends_the_run_without_telling_the_key(status, way):
    with (
        chat_server(lambda body: (status, {"error": f"bad key {KEY}"})) as server,
        pytest.raises(RunFailed, match=way) as error,
    ):
        await asked(server)
    assert KEY not in str(error.value) and "***" in str(error.value)


async def test_an_endpoint_that_never_answers_has_a_deadline():
    over = threading.Event()
    with chat_server(lambda body: over.wait() and completion("4")) as server:
        with pytest.raises(NoAnswer, match=r"endpoint.timeout_s=0\.2"):
            await asked(server, timeout_s=0.2)
        over.set()


async def test_an_endpoint_that_is_down_ends_the_run_at_once():
    with chat_server(lambda body: completion("4")) as server:
        url = server.url
        async with Endpoint(cfg=settings(url)) as endpoint:
            await endpoint.require_answers()
    async with Endpoint(cfg=settings(url)) as endpoint:
        with pytest.raises(RunFailed, match="see whether the server is up"):
            await endpoint.require_answers()
        with pytest.raises(NoAnswer, match="no connection"):
            await endpoint.generate(replace(REQUEST, num_samples=1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "host:8000", "model": "m"}, "must be the base of an API"),
        ({"url": "http://me:pass@host/v1", "model": "m"}, "must hold no secret"),
        ({"url": "http://host/v1?key=1", "model": "m"}, "must hold no secret"),
        ({"url": "http://host/v1"}, "endpoint.model must be"),
        ({"model": "m"}, "no effect without endpoint.url"),
        ({"url": "http://h", "model": "m", "api_key_env": "NOT_THERE"}, "no such variable"),
        ({"url": "http://h", "model": "m", "api_key_env": "sk-1"}, "not the key itself"),
        ({"url": "http://h", "model": "m", "timeout_s": 0.0}, "endpoint.timeout_s"),
    ],
)
def test_settings_that_cannot_work(options, said):
    with pytest.raises(UserError, match=said) as error:
        check_config(EndpointConfig(**options), "endpoint")
    assert "pass" not in str(error.value) and "sk-1" not in str(error.value)
