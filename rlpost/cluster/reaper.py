"""Ending processes that outlive the actor that started them.

A stopped process ignores the death of its parent; only SIGKILL by number ends it. Owns that,
on this host and on others. Invariant: a later process with the same number is left alone.
"""

import asyncio
import logging
import socket
from collections.abc import Sequence

import psutil

from rlpost.rollout.protocol import ProcessId

log = logging.getLogger(__name__)

REAP_TIMEOUT_S = 30.0  # a host that was lost in silence counts as living for a while


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
    """Kill ``processes`` of ``host``, if it can still be reached; else say what may be left."""
    if host == socket.gethostname():
        reap(processes)
        return
    import ray

    nodes = [n for n in ray.nodes() if n["Alive"] and n["NodeManagerHostname"] == host]
    if not nodes:
        log.info("host %s is gone, with the processes on it", host)
        return
    await reap_at(nodes[0]["NodeID"], processes, timeout_s=REAP_TIMEOUT_S)


async def reap_at(node_id: str, processes: Sequence[ProcessId], *, timeout_s: float) -> None:
    """Kill ``processes`` of the host of a Ray node that may be dead, or silent and about to be."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = NodeAffinitySchedulingStrategy(node_id, soft=False)
    killed = ray.remote(reap).options(num_cpus=0, scheduling_strategy=where).remote(processes)
    try:
        async with asyncio.timeout(timeout_s):
            await killed
    except (ray.exceptions.RayError, TimeoutError) as error:
        pids = ", ".join(str(each.pid) for each in processes)
        why = str(error) or f"no answer in {timeout_s:g} s"
        log.warning("processes %s may be left on node %s: %s", pids, node_id, why)
