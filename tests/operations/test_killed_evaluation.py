"""`rlpost evaluate` with real engines: interrupted, killed and repeated, it says the same."""

import json
import signal
import subprocess
import sys
import time

import pytest

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
