"""`rlpost evaluate` with real engines: interrupted, killed and repeated, it says the same."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from chat_server import chat_server, completion

from rlpost.config.compose import compose_stage
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.supervised.sft import prepare as prepare_sft

ROWS = 60
NAMES = {
    "val-core/rows/acc/mean@2",
    "val-core/rows/acc/pass@2/low",
    "val-aux/rows/odd/acc/mean@2",
    "baseline/val-core/rows/acc/mean@2",
    "val-core/rows/difference/p_value",
}
REWARD = '''
import time

def even(completions, completion_ids, **columns):
    """Slow enough that a kill finds some items answered and others not."""
    time.sleep(0.15)
    return [float(sum(ids) % 2 == 0) for ids in completion_ids]
'''


def command(place, name, model, baseline):
    return [
        sys.executable, "-m", "rlpost.cli.main", "evaluate",
        f"run.name={name}",
        f"model.path={model}",
        f"baseline.path={baseline}",
        f"data.heldout={place / 'rows.jsonl'}",
        "verifier=function",
        f"verifier.path={place / 'reward.py'}:even",
        "samples=2",
        "temperature=1",
        "k=[2]",
        "max_tokens=6",
        "generator.dtype=float32",
        "generator.threads=1",
        "tracking.wandb=disabled",
    ]  # fmt: skip


@pytest.fixture
def start(tmp_path, tiny_model, tiny_untied_model):
    rows = (
        {"prompt": f"What is {n} + 1?", "kind": "odd" if n % 2 else "even"} for n in range(ROWS)
    )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "reward.py").write_text(REWARD)

    def start(name):
        return subprocess.Popen(
            command(tmp_path, name, tiny_untied_model, tiny_model),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


def answered(run):
    path = run / "evaluation.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_answers(run, number, process):
    deadline = time.monotonic() + 400
    while answered(run) < number:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{number} answers never came"
        time.sleep(0.01)


def finished(process):
    output, _ = process.communicate(timeout=500)
    return process.returncode, output


def numbers(run):
    (row,) = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {name: value for name, value in row.items() if name != "time_s"}


@pytest.mark.timeout(1200)
def test_an_interrupted_and_killed_evaluation_ends_as_one_that_was_not(start, tmp_path):
    whole, broken = tmp_path / "runs" / "whole", tmp_path / "runs" / "broken"
    code, output = finished(start("whole"))
    assert code == 0, output
    assert "Model minus baseline" in output and f"report: {whole.relative_to(tmp_path)}" in output

    process = start("broken")
    wait_for_answers(broken, 8, process)
    process.send_signal(signal.SIGINT)
    code, output = finished(process)
    assert code == 130 and "run the same command again" in output
    interrupted = answered(broken)
    assert 8 <= interrupted < 2 * ROWS

    process = start("broken")
    wait_for_answers(broken, interrupted + 8, process)
    process.kill()
    assert finished(process)[0] == -signal.SIGKILL
    killed = answered(broken)
    assert interrupted < killed < 2 * ROWS
    with (broken / "evaluation.jsonl").open("a") as file:
        file.write('{"model": "model", "dataset": "ro')  # the middle of a write

    before = (broken / "evaluation.jsonl").read_text().split("\n")[:killed]
    code, output = finished(start("broken"))
    assert code == 0, output
    rows = (broken / "evaluation.jsonl").read_text().split("\n")
    assert set(before) - set(rows) == set()  # what was answered is not answered again
    assert rows == (whole / "evaluation.jsonl").read_text().split("\n")
    assert len(rows) == 2 * 2 * ROWS + 1  # the last line ends with a newline
    assert numbers(broken) == numbers(whole)
    log = (broken / "run.log").read_text()
    assert f"{2 * ROWS - killed // 2} of {2 * ROWS} items are to be answered" in log

    metrics = numbers(whole)
    assert set(metrics) >= NAMES
    assert 0 < metrics["val-core/rows/acc/mean@2"] < 1

    code, output = finished(start("whole"))  # complete: nothing is started
    assert code == 0 and "Model minus baseline" in output and "starting generators" not in output
    assert numbers(whole) == metrics


def test_a_teacher_behind_an_endpoint_writes_a_data_set(tmp_path, tiny_model):
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
        run = subprocess.run(
            words, cwd=tmp_path, env={**os.environ, "A_KEY": key}, text=True, capture_output=True
        )
    said = run.stdout + run.stderr
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
        run = subprocess.run(words, cwd=tmp_path, text=True, capture_output=True)
    said = " ".join((run.stdout + run.stderr).split())
    assert run.returncode == 1, said
    assert "an answer that is no JSON" in said and "see whether the server is up" in said
