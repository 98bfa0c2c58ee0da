"""Whether the nodes of a job are alike, reachable and healthy, and if not, which one is not.

Owns the judgement of node_reading.py's readings. Refuses to own their collection
(cluster/rendezvous.py). Invariants: pure; a finding that blocks names the node and says how to
fix it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from rlpost.doctor.checks import GB, Finding, Level, graded, unused
from rlpost.doctor.node_reading import NodeReading

CLOCK_WARN_S, CLOCK_BLOCK_S = 2.0, 60.0  # munge, too, allows no more than minutes
DISK_WARN_BYTES, DISK_BLOCK_BYTES = 10 * GB, 3 * GB
IDLE_GPU_MIB = 1024  # the driver itself takes some hundreds


def judge(
    names: Sequence[str],
    readings: Mapping[str, NodeReading],
    *,
    sums: Mapping[str, str],
    clocks_s: Mapping[str, float],
) -> Iterator[Finding]:
    """Judge the nodes ``names``.

    Args:
        names: all nodes of the job.
        readings: the readings of the nodes that answered.
        sums: node -> the result of the collective there; empty if it was not run.
        clocks_s: node -> its clock when the collective ended.
    """
    yield presence(names, readings)
    yield versions(readings)
    yield disks(readings)
    yield ports(readings)
    yield network(readings)
    yield gpus(readings)
    if sums:
        yield collective(names, sums, readings)
    if clocks_s:
        yield clocks(clocks_s)


def presence(names: Sequence[str], readings: Mapping[str, NodeReading]) -> Finding:
    """All nodes answer in time."""
    missing = [name for name in names if name not in readings]
    advice = (
        f"{', '.join(missing)} did not answer in time: look at slurmd and the network there, or "
        f"submit with --exclude={','.join(missing)}"
    )
    found = f"{len(names) - len(missing)} of {len(names)} answered"
    return graded("nodes", found, block=advice if missing else "")


def versions(readings: Mapping[str, NodeReading]) -> Finding:
    """Versions are equal: Ray itself checks only its own and Python's."""
    differing = []
    packages = sorted({package for r in readings.values() for package in r.versions})
    for package in packages:
        who = defaultdict(list)
        for name, reading in readings.items():
            who[reading.versions.get(package, "absent")].append(name)
        if len(who) > 1:
            each = ", ".join(f"{v} on {' '.join(nodes)}" for v, nodes in sorted(who.items()))
            differing.append(f"{package} {each}")
    found = ""
    for reading in list(readings.values())[:1]:
        found = ", ".join(f"{package} {v}" for package, v in reading.versions.items())
    advice = f"{'; '.join(differing)}: use one environment on all nodes"
    return graded("versions", found, block=advice if differing else "")


def disks(readings: Mapping[str, NodeReading]) -> Finding:
    """Ray's files and, on a shared disk, checkpoints need room."""
    free = {
        f"{name}:{path}": size for name, r in readings.items() for path, size in r.disks.items()
    }
    block = [where for where, size in free.items() if size < DISK_BLOCK_BYTES]
    warn = [where for where, size in free.items() if size < DISK_WARN_BYTES]
    least = min(free.items(), key=lambda each: each[1], default=("nothing looked at", 0))
    return graded(
        "disk",
        f"at least {least[1] / GB:.1f} GB free ({least[0]})",
        block=f"less than 3 GB at {', '.join(block)}: free some" if block else "",
        warn=f"less than 10 GB at {', '.join(warn)}" if warn else "",
    )


def ports(readings: Mapping[str, NodeReading]) -> Finding:
    """No other process, such as one left over from an earlier job, holds the job's ports."""
    taken = [f"{name}:{port}" for name, r in readings.items() for port in r.taken_ports]
    advice = f"{', '.join(taken)} taken by another process: set RLPOST_PORT_BASE to a free range"
    return graded("ports", "taken" if taken else "free", block=advice if taken else "")


def network(readings: Mapping[str, NodeReading]) -> Finding:
    """Each node has a route to the head, over an interface with a name."""
    lost = [f"{name} ({r.network_error})" for name, r in readings.items() if not r.interface]
    found = ", ".join(f"{name} {r.interface or 'none'}" for name, r in readings.items())
    advice = f"no route to the head from {', '.join(lost)}: set RLPOST_HEAD_ADDRESS"
    return graded("interface", found, block=advice if lost else "")


def gpus(readings: Mapping[str, NodeReading]) -> Finding:
    """The promised GPUs exist, torch can use them, nobody else does and none has memory errors."""
    block, warn = [], []
    for name, r in readings.items():
        if r.gpu_error:
            block.append(f"{name}: nvidia-smi says {r.gpu_error!r}")
        elif len(r.gpus) < r.promised_gpus:
            block.append(f"{name}: {len(r.gpus)} of {r.promised_gpus} promised GPUs answer")
        if r.gpus and (why := unused(r.gpus[0].driver, torch_cuda=r.torch_cuda)):
            warn.append(f"{name}: {why}")
        for index, gpu in enumerate(r.gpus):
            if gpu.uncorrected_errors:
                block.append(f"{name}: GPU {index} has {gpu.uncorrected_errors} memory errors")
            if gpu.used_mib > IDLE_GPU_MIB:
                warn.append(f"{name}: {gpu.used_mib} MiB of GPU {index} are in use already")
    kinds = sorted({f"{len(r.gpus)} x {r.gpus[0].name}" for r in readings.values() if r.gpus})
    return graded(
        "GPU",
        "; ".join(kinds) or "none: the CPU path is used",
        block=f"{'; '.join(block)}: drain the node, or --exclude it" if block else "",
        warn="; ".join(warn),
    )


def collective(
    names: Sequence[str], sums: Mapping[str, str], readings: Mapping[str, NodeReading]
) -> Finding:
    """An all-reduce over all nodes ends with the right sum on every node."""
    expected = str(len(names) * (len(names) + 1) / 2)
    wrong = [f"{name} ({sums.get(name, 'no answer')})" for name in names
             if sums.get(name) != expected]  # fmt: skip
    ways = ", ".join(sorted({r.interface for r in readings.values()}))
    advice = (
        f"all-reduce over {ways} failed on {', '.join(wrong)}: set GLOO_SOCKET_IFNAME and "
        "NCCL_SOCKET_IFNAME to an interface that joins the nodes"
    )
    return graded("collective", f"all-reduce over {ways}", block=advice if wrong else "")


def clocks(clocks_s: Mapping[str, float]) -> Finding:
    """The clocks agree; they were read when the same collective ended."""
    (early, first), (late, last) = (
        pick(clocks_s.items(), key=lambda each: each[1]) for pick in (min, max)
    )
    skew_s = last - first
    advice = f"{late} is {skew_s:.1f} s ahead of {early}: start chrony or ntpd there"
    return graded(
        "clocks",
        f"within {skew_s:.2f} s",
        block=advice if skew_s > CLOCK_BLOCK_S else "",
        warn=advice if skew_s > CLOCK_WARN_S else "",
    )


def lacking(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings that keep a job from starting."""
    return [finding for finding in findings if finding.level is Level.BLOCK]
