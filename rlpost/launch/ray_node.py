"""Ray on one node of a batch job, from its start to the last of its processes.

Owns the processes that Ray started here and their temporary files. Refuses to own the order of
a job (launch/slurm/lib.sh). Invariants: Ray ends when the job's script closes our standard
input, or dies; nothing that it started here outlives it; other Rays of this host are not
touched.

`ray stop` would stop every Ray of the host, and SIGTERM, which a scheduler sends to all
processes of a job at once, would end Ray before the driver has saved. So SIGTERM is blocked
here and inherited so; children are found through the kernel's subreaper.
"""

import contextlib
import ctypes
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import tenacity

from rlpost.errors import NoAnswer, ProcessDied
from rlpost.network import INTERFACE_VARIABLES, interface_to, local_address

log = logging.getLogger(__name__)

NODE_LABEL = "rlpost/node"
LOOK_EVERY_S = 0.5
END_TIMEOUT_S = 10.0
PR_SET_CHILD_SUBREAPER = 36
ENVIRONMENT = {
    # Ray runs workers at nice 15, and hides the GPUs of actors that ask for none.
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """One node of a cluster. Example: ``NodeSettings(name="n1", address="10.0.0.5", ...)``."""

    name: str
    address: str  # of the head, as all nodes reach it
    port: int  # of the head; the next one is its client server's
    is_head: bool
    temp_dir: Path  # on this node, of this node of this job
    logs: Path  # where Ray's logs are kept when it ends
    num_cpus: int | None = None  # None: as many as Ray finds
    num_gpus: int | None = None
    more: Sequence[str] = ()  # further options of `ray start`
    deadline_s: float = 120.0  # for the head to answer


def run_node(settings: NodeSettings) -> int:
    """Run Ray until standard input ends; returns 0.

    Raises:
        NoAnswer: the head does not answer in time.
        ProcessDied: Ray ended by itself.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    _adopt_orphans()
    shutil.rmtree(settings.temp_dir, ignore_errors=True)  # of a job that was killed here
    if not settings.is_head:
        _await_head(settings)
    log.info("starting Ray: %s", " ".join(start_command(settings)))
    ray = subprocess.Popen(
        start_command(settings),
        env=environment(settings.address, os.environ),
        stdin=subprocess.DEVNULL,
    )
    try:
        while not _input_ended(LOOK_EVERY_S):
            if ray.poll() is not None:
                raise ProcessDied(f"Ray ended on {settings.name} with {ray.returncode}")
        log.info("the job's script is done with Ray")
        return 0
    finally:
        end_descendants()
        _keep_logs(settings)
        shutil.rmtree(settings.temp_dir, ignore_errors=True)


def start_command(settings: NodeSettings) -> list[str]:
    """Return the `ray start` of a node; whatever may clash with another job's is left to the OS."""
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--log-style=record",
        f"--node-name={settings.name}",
        f"--labels={NODE_LABEL}={settings.name}",
        f"--temp-dir={settings.temp_dir}",
        "--min-worker-port=0", "--max-worker-port=0",
        "--dashboard-agent-listen-port=0",
        "--disable-usage-stats",
    ]  # fmt: skip
    if settings.is_head:
        command += [
            "--head", f"--node-ip-address={settings.address}", f"--port={settings.port}",
            f"--ray-client-server-port={settings.port + 1}", "--include-dashboard=false",
        ]  # fmt: skip
    else:
        command += [
            f"--address={settings.address}:{settings.port}",
            f"--node-ip-address={local_address(settings.address)}",
        ]
    if settings.num_cpus is not None:
        command.append(f"--num-cpus={settings.num_cpus}")
    if settings.num_gpus is not None:
        command.append(f"--num-gpus={settings.num_gpus}")
    return [*command, *settings.more]


def environment(head_address: str, base: Mapping[str, str]) -> dict[str, str]:
    """Return ``base`` with the interface to the head named, unless a person named one."""
    interface = interface_to(head_address)
    return {**ENVIRONMENT, **dict.fromkeys(INTERFACE_VARIABLES, interface), **base}


def end_descendants(timeout_s: float = END_TIMEOUT_S) -> None:
    """Kill every process that came from this one; those killed may leave orphans to us.

    Raises:
        ProcessDied: some cannot be killed; they are named.
    """
    try:
        tenacity.Retrying(
            stop=tenacity.stop_after_delay(timeout_s),
            retry=tenacity.retry_if_result(bool),
        )(_kill_descendants)
    except tenacity.RetryError as error:
        left = ", ".join(map(str, error.last_attempt.result()))
        raise ProcessDied(f"processes of Ray that cannot be killed: {left}") from error


def _kill_descendants() -> list[psutil.Process]:
    """Kill who is there; returns who is still there then."""
    me = psutil.Process()
    children = me.children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=1.0)
    return me.children(recursive=True)


def _adopt_orphans() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _input_ended(timeout_s: float) -> bool:
    """Whether standard input came to its end; waits at most ``timeout_s``."""
    readable, _, _ = select.select([0], [], [], timeout_s)
    return bool(readable) and not os.read(0, 4096)


def _await_head(settings: NodeSettings) -> None:
    """Wait until the head listens, because `ray start` would give up first."""

    def connect() -> None:
        socket.create_connection((settings.address, settings.port), timeout=5.0).close()

    try:
        tenacity.Retrying(
            stop=tenacity.stop_after_delay(settings.deadline_s),
            wait=tenacity.wait_fixed(LOOK_EVERY_S),
            retry=tenacity.retry_if_exception_type(OSError),
            reraise=True,
        )(connect)
    except OSError as error:
        raise NoAnswer(
            f"{settings.name}: the head at {settings.address}:{settings.port} does not answer in "
            f"{settings.deadline_s:g} s ({error})"
        ) from error


def _keep_logs(settings: NodeSettings) -> None:
    """Copy Ray's logs of this node; sockets and the like are no logs."""
    for session in settings.temp_dir.glob("session_2*/logs"):
        shutil.copytree(session, settings.logs, dirs_exist_ok=True, symlinks=True)
