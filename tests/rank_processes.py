"""Ranks as processes: a script per rank, results through a JSON file."""

import json
import os
import random
import socket
import time
from pathlib import Path
from typing import Any

from forks import Forked

DEADLINE_S = 800.0  # below the limit that tests of ranks have
RESERVED = Path("/proc/sys/net/ipv4/ip_local_port_range")  # ports that nobody chose
MAX_WORKERS = 8  # of pytest-xdist


def run_ranks(
    script: Path, tmp_path: Path, *, ranks: int, first: list[str], control: str, num_ports: int = 1
) -> Any:
    """Run ``script FIRST.. RANK RANKS PORTS.json RESULT.json CONTROL`` for every rank.

    Returns what rank 0 wrote to RESULT.json. A rank that fails ends the others.
    """
    (tmp_path / "ports.json").write_text(json.dumps(unused_ports(num_ports)))
    result = tmp_path / "result.json"
    rest = [str(ranks), str(tmp_path / "ports.json"), str(result), control]
    outputs = [tmp_path / f"rank{rank}.log" for rank in range(ranks)]
    processes = [
        Forked([str(script), *first, str(rank), *rest], output=output)
        for rank, output in enumerate(outputs)
    ]
    deadline_s = time.monotonic() + DEADLINE_S
    while None in (codes := [process.poll() for process in processes]) and not any(codes):
        if time.monotonic() > deadline_s:
            break
        time.sleep(0.02)
    for process in processes:
        process.kill()
        process.wait()
    assert not any(codes) and None not in codes, f"the ranks ended with {codes}\n" + "\n".join(
        o.read_text()[-3000:] for o in outputs
    )
    return json.loads(result.read_text())


def unused_ports(count: int) -> list[int]:
    """Ports of loopback for later: those that the kernel hands out may be taken by then.

    Workers of pytest-xdist draw from different ones, so that no two choose the same.
    """
    lowest = int(RESERVED.read_text().split()[0])
    numbers = range(lowest - 12_000, lowest)
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        numbers = numbers[int(worker.removeprefix("gw")) % MAX_WORKERS :: MAX_WORKERS]
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().choice(numbers)
        with socket.socket() as probe:
            if port not in found and probe.connect_ex(("127.0.0.1", port)):
                found.append(port)
    return found
