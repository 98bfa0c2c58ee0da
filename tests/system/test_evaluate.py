"""`rlpost evaluate` of a model behind an endpoint, by command."""

import json
import re
import sys
from collections import Counter

from chat_server import chat_server, completion
from cli_runs import finish, fork

from rlpost.config.compose import compose_stage
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.supervised.sft import prepare as prepare_sft


def test_a_teacher_behind_an_endpoint_writes_a_data_set(tmp_path, tiny_model, monkeypatch):
    rows = [{"prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tries = Counter()

    def answer(body):
        if body["max_tokens"] == 1:  # the run asks whether anybody is there
            return completion("H")
        asked = body["messages"][-1]["content"]
        number = int(re.search(r"\d+", asked)[0])
        tries[asked] += 1
        if number == 0:
            return completion("")  # never a whole answer
        if number == 1 and tries[asked] == 1:
            return 503, b"busy"
        right = body["seed"] % 2 == 0
        return completion(f"The answer is {number + 1 if right else 99}.")

    key = "sk-kept-nowhere"
    with chat_server(answer) as server:
        words = [
            sys.executable, "-m", "rlpost.cli.main", "evaluate", "run.name=traces",
            f"endpoint.url={server.url}", "endpoint.model=teacher", "endpoint.api_key_env=A_KEY",
            "data.heldout=rows.jsonl", "verifier=numeric", "samples=4", "temperature=1",
            "failures.backoff_s=0", "selection.min_reward=1", "tracking.wandb=disabled",
        ]  # fmt: skip
        monkeypatch.setenv("A_KEY", key)
        run = fork(words, place=tmp_path)
        said = finish(run)
    assert run.returncode == 0, said
    assert {header for _, header, _ in server.seen} == {f"Bearer {key}"}
    root = tmp_path / "runs" / "traces"
    answers = [json.loads(line) for line in (root / "evaluation.jsonl").read_text().splitlines()]
    assert len(answers) == 20 and all(each["response"] for each in answers)
    assert "1 items could not be answered" in said
    kept = [json.loads(line) for line in (root / "dataset/kept.jsonl").read_text().splitlines()]
    assert len(kept) == sum(each["reward"] == 1 for each in answers) > 0
    assert {each["provenance"]["model"] for each in kept} == {"teacher"}
    assert all(each["completion"].startswith("The answer is") for each in kept)
    written = b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())
    assert key.encode() not in written and key not in said
    cfg, _ = compose_stage(
        [f"model.path={tiny_model}", f"data.train={root}/dataset/kept.jsonl", "data.workers=0"],
        stage="sft",
    )
    assert len(prepare_sft(cfg, directory=RunDirectory(root=root)).splits.train.corpora["kept"])


def test_an_endpoint_that_is_down_ends_with_what_to_do(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
    with chat_server(lambda body: (200, b"<html>")) as server:
        words = [
            sys.executable, "-m", "rlpost.cli.main", "evaluate", f"endpoint.url={server.url}",
            "endpoint.model=teacher", "data.heldout=rows.jsonl", "verifier=numeric",
            "tracking.wandb=disabled",
        ]  # fmt: skip
        run = fork(words, place=tmp_path)
        said = " ".join(finish(run).split())
    assert run.returncode == 1, said
    assert "an answer that is no JSON" in said and "see whether the server is up" in said
