"""A real Slurm of two nodes on this one host, private to a test session.

Owns a directory with configuration, keys, logs and state, and the four daemons that run from
it. Refuses to own what jobs do. Invariant: no daemon, socket or file of the system's own Slurm
is used, and nothing is left running.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
NODES = ("n1", "n2")
# Debian keeps daemons where a user's PATH does not look.
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
DEADLINE_S = 60.0
CONF = """
ClusterName=rlpost
# Jobs derive ports and paths from their numbers: those of another cluster here must differ.
FirstJobId={first_job}
SlurmctldHost={host}
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
AuthType=auth/munge
# A requeued job waits for its old credential to expire, by default two minutes.
AuthInfo=socket={root}/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={root}/state
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
# Without %n the second slurmd would take the first one's place.
SlurmdPidFile={root}/slurmd-%n.pid
SlurmdSpoolDir={root}/spool-%n
SlurmdLogFile={root}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,sched_interval=2
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
MinJobAge=3600
NodeName=DEFAULT CPUs=4 RealMemory=8000
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}]
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def missing_programs() -> list[str]:
    """Programs of Slurm and munge that this host lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


@dataclass(frozen=True, kw_only=True)
class SlurmCluster:
    """A running cluster; its commands are those of Slurm."""

    root: Path
    environment: Mapping[str, str] = field(repr=False)
    nodes: Mapping[str, "subprocess.Popen[bytes]"]  # the slurmd of each

    def run(self, *command: str, **environment: str) -> str:
        """Run one of Slurm's commands; returns what it printed."""
        result = subprocess.run(
            command, env={**self.environment, **environment}, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout.strip()

    def job(self, job_id: str) -> dict[str, str]:
        """Fields of ``scontrol show job``."""
        text = self.run("scontrol", "show", "job", "--oneliner", job_id)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def processes(self) -> list[psutil.Process]:
        """Processes that jobs of this cluster started, of whatever depth."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                ours = environment.get("SLURM_CONF") == self.environment["SLURM_CONF"]
                if ours and "SLURM_JOB_ID" in environment:
                    found.append(process)
        return found

    @contextlib.contextmanager
    def silent(self, node: str) -> Iterator[None]:
        """Let a node accept connections and never answer."""
        self.nodes[node].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.nodes[node].send_signal(signal.SIGCONT)


@contextlib.contextmanager
def slurm_cluster(root: Path) -> Iterator[SlurmCluster]:
    """Start Slurm in ``root``, yield it when both nodes are idle, end everything."""
    root.mkdir(mode=0o755)
    (root / "state").mkdir()
    for node in NODES:
        (root / f"spool-{node}").mkdir()
    key = root / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    conf = CONF.format(
        host=host,
        user=getpass.getuser(),
        root=root,
        ports=_three_ports(),
        first_job=secrets.randbelow(50_000) + 1,
    )
    (root / "slurm.conf").write_text(conf)
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(root / "slurm.conf")}
    for name in [n for n in environment if n.startswith(("SLURM_", "SBATCH_"))]:
        if name != "SLURM_CONF":
            del environment[name]
    munged = [
        "munged", "--foreground", "--force", f"--socket={root}/munge.socket", f"--key-file={key}",
        f"--pid-file={root}/munged.pid", f"--seed-file={root}/munged.seed", "--num-threads=2",
    ]  # fmt: skip
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        daemons.append(_start(munged, root / "munged.log", environment))
        _wait("munged", daemons, root, lambda: (root / "munge.socket").exists())
        daemons.append(_start(["slurmctld", "-D"], root / "slurmctld.out", environment))
        for node in NODES:
            command = ["slurmd", "-D", "-N", node]
            daemons.append(_start(command, root / f"slurmd-{node}.out", environment))
        _wait("both nodes", daemons, root, lambda: _idle_nodes(environment) == list(NODES))
        nodes = dict(zip(NODES, daemons[-len(NODES) :], strict=True))
        yield SlurmCluster(root=root, environment=environment, nodes=nodes)
    finally:
        if daemons[1:]:
            # A job's own end may take longer than a test should.
            subprocess.run(
                ["scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}"],
                env=environment, capture_output=True, timeout=30, check=False,
            )  # fmt: skip
        for daemon in reversed(daemons):
            _end(daemon)


def _three_ports() -> list[int]:
    """Free ports; the last two are neighbours, as a port range of slurm.conf wants them."""
    while True:
        with socket.socket() as first, socket.socket() as second, socket.socket() as third:
            first.bind(("", 0))
            second.bind(("", 0))
            port = second.getsockname()[1]
            try:
                third.bind(("", port + 1))
            except (OSError, OverflowError):
                continue
            return [first.getsockname()[1], port, port + 1]


def _start(
    command: list[str], log: Path, environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    program = shutil.which(command[0], path=PATH)
    assert program is not None
    with log.open("wb") as out:
        return subprocess.Popen(
            [program, *command[1:]], env=environment, stdout=out, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip


def _idle_nodes(environment: Mapping[str, str]) -> list[str]:
    result = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"],
        env=environment, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    return sorted(result.stdout.split())


def _wait(what: str, daemons: list, root: Path, ready) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not ready():
        dead = [daemon.args for daemon in daemons if daemon.poll() is not None]
        if dead or time.monotonic() > deadline:
            logs = "\n".join(f"{p}:\n{p.read_text()[-1500:]}" for p in root.glob("*.log"))
            logs += "\n".join(f"{p}:\n{p.read_text()[-1500:]}" for p in root.glob("*.out"))
            raise RuntimeError(f"Slurm: {what} not ready; ended: {dead}\n{logs}")
        time.sleep(0.1)


def _end(daemon: "subprocess.Popen[bytes]") -> None:
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.wait(timeout=15)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
