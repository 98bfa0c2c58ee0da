"""`rlpost rl` with SGLang servers for generators, played by the stand-in, and one killed."""

import os
import signal

import psutil
import pytest
from cli_runs import REWARD, finish, metrics, start, wait_for_step
from sglang_stand_in import interpreter

pytestmark = pytest.mark.timeout(900)  # processes boot slowly beside others

STEPS = 2


def test_a_run_pushes_to_a_server_and_survives_its_death(tmp_path, tiny_untied_model):
    (tmp_path / "reward.py").write_text(REWARD)
    process = start(
        tmp_path,
        tiny_untied_model,
        "sglang",
        f"trainer.steps={STEPS}",
        "generator.backend=sglang",
        f"generator.sglang.python={interpreter(tmp_path)}",
        "checkpoint.every=100",
    )
    run = tmp_path / "runs" / "sglang"
    wait_for_step(run, 1, process)
    os.kill(_server_below(process.pid), signal.SIGKILL)
    output = finish(process)
    assert process.returncode == 0, output
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    pushes = [row for row in rows if "weights/version" in row]
    assert len(pushes) == STEPS + 1
    assert max(row["weights/probe_logprob_diff_max"] for row in pushes) < 1e-3
    assert max(row["actor/ratio/max_deviation"] for row in rows[1:]) < 1e-4
    assert "SGLang's server died" in (run / "run.log").read_text()


def _server_below(pid):
    (server,) = (
        each.pid
        for each in psutil.Process(pid).children(recursive=True)
        if "sglang.launch_server" in each.cmdline()
    )
    return server
