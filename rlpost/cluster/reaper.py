"""Ending processes that outlive the actor that started them.

A stopped process ignores the death of its parent; only SIGKILL by number ends it. Owns that,
on this host and on others. Invariant: a later process with the same number is left alone.
"""

import logging
import socket
from collections.abc import Sequence

import psutil

from rlpost.rollout.protocol import ProcessId

log = logging.getLogger(__name__)


def reap(processes: Sequence[ProcessId]) -> int:
    """Kill those of ``processes`` that still exist on this host; returns how many did."""
    num = 0
    for each in processes:
        try:
            process = psutil.Process(each.pid)
            if abs(process.create_time() - each.started_s) < 1.0:
                process.kill()
                num += 1
        except psutil.NoSuchProcess:
            continue
    return num


async def reap_on(host: str, processes: Sequence[ProcessId]) -> None:
    """Kill ``processes`` of ``host``, if that host is still part of the cluster."""
    if host == socket.gethostname():
        reap(processes)
        return
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [n for n in ray.nodes() if n["Alive"] and n["NodeManagerHostname"] == host]
    if not nodes:
        log.info("host %s is gone, with the processes on it", host)
        return
    where = NodeAffinitySchedulingStrategy(nodes[0]["NodeID"], soft=False)
    await ray.remote(reap).options(num_cpus=0, scheduling_strategy=where).remote(processes)
