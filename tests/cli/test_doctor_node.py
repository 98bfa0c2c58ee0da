"""`rlpost doctor --node` in several processes, as srun starts them."""

import socket
import subprocess
import sys

from rlpost.network import free_port

NAMES = "n1,n2"


def start(name: str, port: int, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [
            sys.executable, "-m", "rlpost.cli.main", "doctor", "--node", "--nodes", NAMES,
            "--name", name, "--port", str(port), *options,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def outcome(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def test_two_nodes_that_are_alike_pass():
    port = free_port()
    first, second = (outcome(p) for p in [start("n1", port), start("n2", port)])
    assert first[0] == 0, first
    assert "all-reduce over" in first[1]
    assert second == (0, "", second[2])  # one table is enough


def test_a_node_that_does_not_come_is_named():
    code, out, _ = outcome(start("n1", free_port(), "--deadline-s", "2"))
    assert code == 1
    assert "nodes: n2 did not answer in time" in out
    assert "all-reduce" not in out


def test_a_first_node_that_does_not_come_is_named():
    code, _, err = outcome(start("n2", free_port(), "--deadline-s", "2"))
    assert code == 1
    assert "n1 does not answer n2" in err


def test_a_port_that_another_process_holds_is_named():
    with socket.create_server(("", 0)) as server:
        taken = str(server.getsockname()[1])
        port = free_port()
        first, _ = (outcome(p) for p in [start("n1", port, "--ports", taken), start("n2", port)])
    assert first[0] == 1
    assert f"ports: n1:{taken} taken" in first[1]
