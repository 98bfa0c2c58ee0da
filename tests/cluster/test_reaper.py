"""Processes end by number: on this host, on a node of a cluster, and not on one that is silent."""

import os
import signal
import subprocess
import time

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from rlpost.cluster.reaper import reap, reap_at
from rlpost.cluster.session import ClusterConfig, Session
from rlpost.rollout.protocol import ProcessId


@pytest.fixture
def stopped():
    """A process that is stopped, as those are that nothing but SIGKILL ends."""
    child = subprocess.Popen(["sleep", "600"])
    os.kill(child.pid, signal.SIGSTOP)
    yield child
    child.kill()
    child.wait()


def identity(child: subprocess.Popen) -> ProcessId:
    return ProcessId(pid=child.pid, started_s=psutil.Process(child.pid).create_time())


def test_a_stopped_process_ends_and_its_number_is_safe(stopped):
    known = identity(stopped)
    later = ProcessId(pid=known.pid, started_s=known.started_s - 100)
    assert reap([later]) == 0 and stopped.poll() is None
    assert reap([known]) == 1
    assert stopped.wait(60) == -signal.SIGKILL
    assert reap([known]) == 0


async def test_a_silent_node_is_not_waited_for(stopped, caplog):
    """A raylet that is stopped counts as living until Ray's health checks have failed often."""
    cluster = Cluster()
    cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    far = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    raylet = far.all_processes["raylet"][0].process
    try:
        with Session(ClusterConfig(address=cluster.address)):
            known = identity(stopped)
            os.kill(raylet.pid, signal.SIGSTOP)
            assert far.node_id in {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            start_s = time.monotonic()
            await reap_at(far.node_id, [known], timeout_s=1.0)
            assert time.monotonic() - start_s < 20
            assert f"processes {known.pid} may be left" in caplog.text
            assert stopped.poll() is None
            os.kill(raylet.pid, signal.SIGCONT)
            await reap_at(far.node_id, [known], timeout_s=60.0)
            assert stopped.wait(60) == -signal.SIGKILL
            await reap_at("0" * 56, [known], timeout_s=60.0)  # a node that Ray knows is gone
            assert "no answer" in caplog.text and caplog.text.count("may be left") == 2
    finally:
        os.kill(raylet.pid, signal.SIGCONT)
        cluster.shutdown()
