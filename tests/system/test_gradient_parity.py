"""The gradient does not depend on the split: real DeepSpeed on gloo against plain torch."""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

BOUND = 1e-5


def differences(
    tmp_path: Path, model: Path, *, ranks: int, role: str = "policy", control: str = "none"
):
    """Relative gradient difference of every stage and micro-batch count."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(12)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in probes]
    (tmp_path / "ports.json").write_text(json.dumps(ports))
    result = tmp_path / "result.json"
    script = Path(__file__).with_name("parity_rank.py")
    arguments = [str(ranks), str(tmp_path / "ports.json"), str(result), control]
    env = os.environ | {"PYTHONPATH": str(script.parents[1]), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), role, str(model), str(rank), *arguments],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(outputs)[-3000:]
    return json.loads(result.read_text())


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(("role", "fixture"), [("policy", "tiny_model"), ("critic", "tiny_reward")])
def test_stages_ranks_and_micro_batches_agree_with_plain_torch(
    tmp_path, role, fixture, ranks, request
):
    model = request.getfixturevalue(fixture)
    found = differences(tmp_path, model, ranks=ranks, role=role)
    assert len(found) == 12
    assert max(found.values()) < BOUND, found


def test_a_local_mean_would_be_noticed(tmp_path, tiny_model):
    found = differences(tmp_path, tiny_model, ranks=1, control="local_mean")
    assert all(gap > 1e-2 for case, gap in found.items() if "1 micro" not in case), found


def test_a_missing_boundary_call_would_be_noticed(tmp_path, tiny_model):
    found = differences(tmp_path, tiny_model, ranks=1, control="no_boundary")
    wrong = {case for case, gap in found.items() if gap > 1e-2}
    assert {"stage 1, 4 micro-batches", "stage 2, 4 micro-batches"} <= wrong, found
