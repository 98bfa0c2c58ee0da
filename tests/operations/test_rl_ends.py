"""How a run of `rlpost rl` ends early: by Ctrl-C, and without an update."""

import os
import signal
import time
from pathlib import Path

import pytest
from cli_runs import REWARD, finish, metrics, typed, wait_for_step

pytestmark = pytest.mark.timeout(900)  # processes boot slowly beside others


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("rl")
    (place / "reward.py").write_text(REWARD)
    return place


def test_ctrl_c_saves_and_says_how_to_resume(place, tiny_untied_model):
    run = place / "runs" / "interrupted"
    process = typed(place, tiny_untied_model, "interrupted", "trainer.steps=400")
    wait_for_step(run, 2, process)
    for _ in range(2):  # to the process and to its group, as `timeout` and schedulers do
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.1)
    output = finish(process)
    assert process.returncode == 130, output
    assert "resume" in output
    saved = (run / "checkpoints" / "latest").read_text().strip()
    assert int(saved.removeprefix("step_")) >= 2
    assert (run / "checkpoints" / saved / "MANIFEST.json").is_file()
    steps = [row["step"] for row in metrics(run)]
    assert steps == list(range(int(saved.removeprefix("step_")) + 1))  # no record is lost
    passes = [row["training/epoch"] for row in metrics(run)[1:3]]
    assert passes[0] > 0 and passes[1] == pytest.approx(2 * passes[0])


def test_a_run_that_learns_nothing_fails_saved_and_exports_nothing(place, tiny_untied_model):
    (place / "broken.py").write_text("def f(prompts, **columns):\n    raise KeyError('x')\n")
    process = typed(
        place,
        tiny_untied_model,
        "idle",
        f"verifier.path={place / 'broken.py'}:f",
        "failures.idle_steps=2",
        "evaluation.every=0",
        "checkpoint.every=0",
    )
    output = " ".join(finish(process).split())
    assert process.returncode == 1, output
    assert "no update in 2 steps in a row" in output and "KeyError: 'x' (broken.py:2)" in output
    run = place / "runs" / "idle"
    assert (run / "checkpoints" / "latest").read_text().strip() == "step_000002"
    assert [row["step"] for row in metrics(run)] == [0, 1, 2]
    assert not (run / "export").exists()
