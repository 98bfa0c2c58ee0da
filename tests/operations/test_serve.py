"""`rlpost serve` by command: many adapters at once, loads and unloads meanwhile, and its end."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import psutil
import pytest
import torch
from peft_adapters import adapted, save

from rlpost.cli.main import main

pytestmark = pytest.mark.timeout(900)  # an engine boots slowly beside others

TOKEN = "a-token-of-more-than-16-characters"
KINDS = ["lora", "lora", "lora", "lora", "rslora", "adalora", "vera", "patterns"]
NAMES = [f"{kind}@{number}" for number, kind in enumerate(KINDS)]
PER_ADAPTER = 25
CLOSE = 1e-3  # nats between the two best tokens, below which either is right


@dataclass
class Served:
    """A server that runs, and the models that its adapters were saved from."""

    url: str
    place: Path
    process: subprocess.Popen
    models: dict

    def client(self, kind=openai.OpenAI, **options):
        return kind(base_url=f"{self.url}/v1", api_key=TOKEN, max_retries=0, **options)

    def ask(self, method, path, **options):
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.request(method, self.url + path, headers=headers, timeout=600, **options)

    def adapters(self):
        return {each["name"]: each for each in self.ask("GET", "/v1/adapters").json()["data"]}


@pytest.fixture(scope="module")
def served(tmp_path_factory, tiny_model):
    place = tmp_path_factory.mktemp("serve")
    models = {}
    for number, (kind, name) in enumerate(zip(KINDS, NAMES, strict=True)):
        models[name] = adapted(tiny_model, kind, seed=number)
        save(models[name], place / "runs" / name / "export")
    token = place / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    words = [
        sys.executable, "-m", "rlpost.cli.main", "serve", f"model.path={tiny_model}",
        f"adapters={{{', '.join(f'{name}: {name}' for name in NAMES)}}}", "serve.name=tiny",
        "serve.port=0", f"serve.token_file={token}", "serve.max_adapters=9",
        "generator.dtype=float32", "generator.threads=1",
    ]  # fmt: skip
    with (place / "output").open("w") as output:
        process = subprocess.Popen(
            words, cwd=place, stdout=output, stderr=output, start_new_session=True
        )
    try:
        while not (found := re.search(r"at (http://\S+)/v1", (place / "output").read_text())):
            assert process.poll() is None, (place / "output").read_text()
            time.sleep(0.2)
        yield Served(found[1], place, process, models)
    finally:
        process.kill()
        process.wait()


def prompts():
    """Prompts of many lengths, as token ids of the tokenizer's bytes."""
    return [[3 + (7 * n * k + k) % 250 for k in range(1, 6 + n)] for n in range(PER_ADAPTER)]


def agrees(model, prompt, answer):
    """Whether the model alone answers so, up to where its two best tokens are close."""
    tokens = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        logits = model(tokens).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    for row, token in zip(logits, answer, strict=True):
        best = row.topk(2).values
        if best[0] - best[1] < CLOSE:
            return True
        if row.argmax() != token:
            return False
    return True


def test_every_answer_is_that_of_its_merged_model(served):
    async def answers():
        async with served.client(openai.AsyncOpenAI) as client:
            jobs = [
                client.completions.create(
                    model=name, prompt=prompt, max_tokens=16, temperature=0,
                    extra_body={"return_token_ids": True, "ignore_eos": True},
                )
                for prompt in prompts()
                for name in NAMES
            ]  # fmt: skip
            assert len(jobs) == 200
            return await asyncio.gather(*jobs)

    found = iter(asyncio.run(answers()))
    merged = {name: model.merge_and_unload().eval() for name, model in served.models.items()}
    others = 0
    for prompt in prompts():
        for number, name in enumerate(NAMES):
            answer = next(found)
            tokens = answer.choices[0].token_ids
            assert answer.model == name and len(tokens) == 16
            assert agrees(merged[name], prompt, tokens), (name, prompt)
            others += agrees(merged[NAMES[number - 1]], prompt, tokens)
    assert others < 20  # the check tells adapters apart
    counts = served.adapters()
    assert {counts[name]["requests"] for name in NAMES} == {PER_ADAPTER}
    assert f'rlpost:adapter_requests_total{{adapter="lora@0"}} {PER_ADAPTER}.0' in (
        served.ask("GET", "/metrics").text
    )


def curl(served, path, *options):
    words = ["curl", "-s", "-w", "\n%{http_code}", *options, served.url + path]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def test_curl_needs_the_token_everywhere_but_for_health(served):
    token = ["-H", f"Authorization: Bearer {TOKEN}"]
    wrong = ["-H", f"Authorization: Bearer {TOKEN[:-1]}"]
    for path in ("/v1/models", "/v1/adapters", "/metrics", "/tokenize", "/invocations", "/docs"):
        for given in ([], wrong):
            status, body = curl(served, path, *given)
            assert status == 401 and "Authorization: Bearer" in body, path
    assert curl(served, "/health")[0] == 200
    status, body = curl(served, "/v1/models", *token)
    assert status == 200
    assert {each["id"] for each in json.loads(body)["data"]} == {"tiny", *NAMES}
    asked = {"model": "lora@1", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    data = ["-H", "Content-Type: application/json", "-d", json.dumps(asked)]
    status, body = curl(served, "/v1/chat/completions", *token, *data)
    assert status == 200 and json.loads(body)["usage"]["completion_tokens"] > 0
    # vLLM's own way past the checks, and what a page of another origin can send.
    assert curl(served, "/v1/load_lora_adapter", *token, *data)[0] == 404
    plain = ["-H", "Content-Type: text/plain", "-d", '{"name": "a", "path": "b"}']
    assert curl(served, "/v1/adapters", *token, *plain)[0] == 400


def stream(served, name):
    return served.client().completions.create(
        model=name, prompt="hi", max_tokens=500, temperature=0, stream=True,
        extra_body={"ignore_eos": True},
    )  # fmt: skip


def test_a_client_that_goes_away_in_the_middle_leaves_nothing(served):
    answer = stream(served, "lora@2")
    next(iter(answer))
    answer.close()
    while served.adapters()["lora@2"]["requests_running"]:
        time.sleep(0.05)
    asked = [{"role": "user", "content": "hi"}]
    again = served.client().chat.completions.create(
        model="lora@2", messages=asked, max_tokens=2, temperature=0
    )
    assert again.choices[0].message.role == "assistant"


def test_adapters_are_loaded_drained_and_unloaded_while_requests_run(served, tiny_model):
    running = stream(served, "lora@3")
    next(iter(running))
    save(adapted(tiny_model, "lora", seed=11), served.place / "runs" / "new" / "export")
    loaded = served.ask("POST", "/v1/adapters", json={"name": "lora@9", "path": "new"})
    assert loaded.status_code == 200 and loaded.json()["state"] == "serving", loaded.text
    assert sum(1 for _ in running) > 0  # it went on meanwhile
    full = served.ask("POST", "/v1/adapters", json={"name": "lora@10", "path": "new"})
    assert full.status_code == 409 and "serve.max_adapters=9" in full.text
    twice = served.ask("POST", "/v1/adapters", json={"name": "lora@9", "path": "new"})
    assert twice.status_code == 409 and "lora@10" in twice.text

    drained = stream(served, "lora@9")
    next(iter(drained))
    gone = served.ask("DELETE", "/v1/adapters/lora@9", params={"deadline_s": 600})
    assert gone.json() == {"name": "lora@9", "aborted": 0}
    assert [each.choices[0].finish_reason for each in drained][-1] == "length"
    with pytest.raises(openai.NotFoundError):
        stream(served, "lora@9")
    assert served.ask("DELETE", "/v1/adapters/lora@9").status_code == 404

    cut = stream(served, "lora@3")
    next(iter(cut))
    gone = served.ask("DELETE", "/v1/adapters/lora@3", params={"deadline_s": 0}).json()
    ends = [each.choices[0].finish_reason for each in cut]
    assert gone["aborted"] == (ends[-1] == "abort")
    assert "lora@3" not in served.adapters()


def test_what_changes_nothing_is_refused_and_the_server_goes_on(served, tiny_model):
    idle = adapted(tiny_model, "lora")
    with torch.no_grad():
        for name, parameter in idle.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    save(idle, served.place / "runs" / "idle")
    refused = served.ask("POST", "/v1/adapters", json={"name": "idle", "path": "runs/idle"})
    assert refused.status_code == 422 and "it changes nothing" in refused.json()["error"]["message"]
    outside = served.ask("POST", "/v1/adapters", json={"name": "x", "path": str(tiny_model)})
    assert outside.status_code == 422 and "is not permitted" in outside.text
    assert "idle" not in served.adapters()


def test_a_port_that_is_taken_is_refused(served, tiny_model, capsys, monkeypatch):
    monkeypatch.chdir(served.place)
    port = served.url.rpartition(":")[2]
    words = [f"model.path={tiny_model}", f"serve.port={port}", "run.name=second"]
    assert main(["serve", *words]) == 2
    assert f"serve.port={port}" in capsys.readouterr().err
    assert not (served.place / "runs" / "second").exists()


def test_ctrl_c_leaves_nothing_and_the_token_is_nowhere(served):
    below = psutil.Process(served.process.pid).children(recursive=True)
    assert below
    assert not any(TOKEN in word for each in below for word in each.cmdline())
    running = stream(served, "lora@0")
    next(iter(running))
    os.kill(served.process.pid, signal.SIGINT)
    assert served.process.wait() == 130
    _, alive = psutil.wait_procs(below, timeout=60)
    assert not alive
    run = served.place / "runs" / "serve"
    written = [path.read_text() for path in (run / "config.yaml", run / "run.log")]
    said = (served.place / "output").read_text()
    assert "the server has ended" in said
    assert TOKEN not in "".join([*written, said])
    assert sorted(path.name for path in run.iterdir()) == [".lock", "config.yaml", "run.log"]
