"""Ranks as plain processes: a script per rank, results through a JSON file."""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any


def run_ranks(
    script: Path, tmp_path: Path, *, ranks: int, first: list[str], control: str, num_ports: int = 1
) -> Any:
    """Run ``script FIRST.. RANK RANKS PORTS.json RESULT.json CONTROL`` for every rank.

    Returns what rank 0 wrote to RESULT.json.
    """
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(num_ports)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in probes]
    (tmp_path / "ports.json").write_text(json.dumps(ports))
    result = tmp_path / "result.json"
    rest = [str(ranks), str(tmp_path / "ports.json"), str(result), control]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), *first, str(rank), *rest],
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
