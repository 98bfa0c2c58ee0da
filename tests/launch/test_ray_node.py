"""What a node's Ray is told, and that nothing of it stays behind."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from rlpost.launch import ray_node
from rlpost.network import interface_to

HEAD = ray_node.NodeSettings(
    name="n1",
    address="127.0.0.1",
    port=20_000,
    is_head=True,
    temp_dir=Path("/tmp/rlpost-7-0"),
    logs=Path("/logs/n1"),
)
# Leaves a grandchild that ignores SIGTERM in a session of its own, and ends.
LEAVES_AN_ORPHAN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
orphan = subprocess.Popen(["sleep", "1000"], start_new_session=True, **silent)
print(orphan.pid)
"""
ADOPTS = f"""
import subprocess, sys
from rlpost.launch import ray_node
if sys.argv[1] == "adopt":
    ray_node._adopt_orphans()
left = subprocess.run([sys.executable, "-c", '''{LEAVES_AN_ORPHAN}'''], stdout=subprocess.PIPE)
ray_node.end_descendants()
print(int(left.stdout))
"""


def test_only_the_head_has_the_jobs_ports():
    head = ray_node.start_command(HEAD)
    other = ray_node.start_command(replace(HEAD, name="n2", is_head=False))
    assert "--port=20000" in head and "--ray-client-server-port=20001" in head
    assert "--address=127.0.0.1:20000" in other
    assert not any(each.startswith("--port") for each in other)
    for command, name in ((head, "n1"), (other, "n2")):
        assert f"--node-name={name}" in command
        assert f"--labels=rlpost/node={name}" in command
        assert not any(each.startswith("--num-gpus") for each in command)  # Ray looks itself


def test_what_the_scheduler_gave_is_what_ray_may_use():
    command = ray_node.start_command(replace(HEAD, num_cpus=8, num_gpus=0, more=["--verbose"]))
    assert command[-3:] == ["--num-cpus=8", "--num-gpus=0", "--verbose"]


def test_the_interface_is_named_unless_a_person_did():
    found = ray_node.environment("127.0.0.1", {"NCCL_SOCKET_IFNAME": "ib0"})
    assert found["GLOO_SOCKET_IFNAME"] == interface_to("127.0.0.1")
    assert found["NCCL_SOCKET_IFNAME"] == "ib0"
    assert found["RAY_worker_niceness"] == "0"


@pytest.mark.parametrize("adopt", [True, False])
def test_orphans_are_found_because_they_are_adopted(adopt):
    result = subprocess.run(
        [sys.executable, "-c", ADOPTS, "adopt" if adopt else "not"], capture_output=True,
        text=True, cwd=Path(__file__).parents[2], check=True,
    )  # fmt: skip
    orphan = int(result.stdout)
    try:
        assert psutil.pid_exists(orphan) is not adopt
    finally:
        if psutil.pid_exists(orphan):
            psutil.Process(orphan).kill()
