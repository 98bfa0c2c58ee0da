"""Cut the network of a generator's host in the middle of a run.

    .venv/bin/python benchmarks/network.py DIR --transport gloo       (as root, with iproute2)

Three hosts in network namespaces of this machine, each with an address of its own: the driver
and the trainer on one, a generator on each of the others, `cluster=two_nodes`. Each host of a
generator has a `/dev/shm` of its own, or its receiver would map the trainer's pages. The link of
one generator's host is cut for ``--cut`` seconds and restored, later for good. Checked: the run
goes on during both cuts and ends at its last step with nothing lost; the generator whose link came
back serves again; with gloo, the link that was never cut has carried every push.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from chaos import Run, check, lines, saved

HOSTS = ("trainer", "left", "right")
# `ip netns exec` gives what it runs a mount table of its own.
OWN_SHARED_MEMORY = ["sh", "-c", 'mount -t tmpfs own /dev/shm && exec "$@"', "sh"]
PORT = 6399
BIN = Path(sys.executable).parent


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Network:
    """Hosts on one switch; names are unique to this process."""

    def __init__(self, hosts: Sequence[str] = HOSTS) -> None:
        self._hosts = hosts
        self._prefix = f"rlpost{os.getpid()}"
        self._switch = self._space("switch")
        self._daemons: list[subprocess.Popen] = []

    def _space(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def address(self, host: str) -> str:
        return f"10.77.0.{1 + self._hosts.index(host)}"

    def build(self) -> None:
        ip("netns", "add", self._switch)
        ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self._switch, "link", "set", "bridge", "up")
        for host in self._hosts:
            space = self._space(host)
            ip("netns", "add", space)
            # fmt: off
            ip("-n", space, "link", "add", "net0", "type", "veth",
               "peer", "name", host, "netns", self._switch)
            # fmt: on
            ip("-n", space, "addr", "add", f"{self.address(host)}/24", "dev", "net0")
            for link in ("net0", "lo"):
                ip("-n", space, "link", "set", link, "up")
            # A way out: by it, programs find the address that other hosts know.
            ip("-n", space, "route", "add", "default", "dev", "net0")
            ip("-n", self._switch, "link", "set", host, "master", "bridge", "up")

    def destroy(self) -> None:
        for host in self._hosts:
            ip("netns", "del", self._space(host))
        ip("netns", "del", self._switch)

    def link(self, host: str, state: str) -> None:
        """Cut (``down``) or restore (``up``) the link of ``host``; packets are dropped silently."""
        ip("-n", self._switch, "link", "set", host, state)
        print(f"{time.strftime('%H:%M:%S')} link of {host} {state}", flush=True)

    def received_bytes(self, host: str) -> int:
        """Return what has come to ``host`` over its link."""
        command = ["ip", "-n", self._space(host), "-s", "-j", "link", "show", "net0"]
        (link,) = json.loads(subprocess.check_output(command))
        return link["stats64"]["rx"]["bytes"]

    def on(self, host: str) -> list[str]:
        """Return the prefix of a command line that runs it on ``host``."""
        return ["ip", "netns", "exec", self._space(host)]


@contextmanager
def cluster(network: Network, place: Path) -> Iterator[None]:
    """A Ray cluster with a node on each host."""
    env = os.environ | {
        "RAY_worker_niceness": "0",
        # How long a silent node counts as alive: longer than the cut.
        "RAY_health_check_period_ms": "3000",
        "RAY_health_check_timeout_ms": "10000",
        "RAY_health_check_failure_threshold": "30",
    }
    nodes = []
    try:
        for host in HOSTS:
            role = ["--head", f"--port={PORT}", "--include-dashboard=false"]
            if host != HOSTS[0]:
                role = [f"--address={network.address(HOSTS[0])}:{PORT}"]
            command = [
                *network.on(host),
                *([] if host == HOSTS[0] else OWN_SHARED_MEMORY),
                str(BIN / "ray"),
                "start",
                *role,
                "--num-cpus=2",
                "--block",
            ]
            command += [f"--node-name={host}", f"--node-ip-address={network.address(host)}"]
            command += ["--object-store-memory=100000000"]
            path = place / f"ray-{host}.txt"
            output = path.open("w")
            nodes.append(
                subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
            )
            wait_for_node(path, nodes[-1])
        yield
    finally:
        for node in reversed(nodes):
            node.terminate()
        for node in nodes:
            node.wait(timeout=30)


def wait_for_node(output: Path, node: subprocess.Popen) -> None:
    """Return when the node has joined.

    Nodes that start at once on one machine take each other's sockets, and slots are given on
    the nodes that are there.
    """
    deadline_s = time.monotonic() + 180
    while "Ray runtime started" not in output.read_text():
        if node.poll() is not None or time.monotonic() > deadline_s:
            raise SystemExit(f"a node did not join the cluster: see {output}")
        time.sleep(0.2)


def rows_of(run: Run) -> list[dict]:
    path = run.root / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def step_of(run: Run) -> int:
    return len(rows_of(run)) - 1


def wait_for_step(run: Run, step: int, *, timeout_s: float = 600) -> None:
    deadline_s = time.monotonic() + timeout_s
    while step_of(run) < step:
        if run.process.poll() is not None or time.monotonic() > deadline_s:
            raise SystemExit(f"step {step} never came: see {run.place / 'output.txt'}")
        time.sleep(0.2)


def said(run: Run, text: str, *, since_s: float) -> bool:
    return any(text in line and at_s > since_s for at_s, line in lines(run))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("place", type=Path)
    parser.add_argument("--transport", choices=("gloo", "filesystem"), default="gloo")
    parser.add_argument("--cut", type=float, default=60.0, help="seconds of the first cut")
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    place = args.place.absolute()
    place.mkdir(parents=True, exist_ok=True)
    network = Network()
    network.build()
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        with cluster(network, place):
            return experiment(network, place, args)
    finally:
        network.destroy()


def experiment(network: Network, place: Path, args: argparse.Namespace) -> int:
    options = ["cluster=two_nodes", f"cluster.address={network.address(HOSTS[0])}:{PORT}"]
    options += [f"weights.transport={args.transport}", "trainer.num_ranks=1"]
    run = Run(place, steps=args.steps, options=options, prefix=network.on(HOSTS[0]))
    try:
        wait_for_step(run, 3)
        cut_s = time.time()
        before = step_of(run)
        network.link("right", "down")
        time.sleep(args.cut)
        during = step_of(run) - before
        network.link("right", "up")
        print(f"{during} steps in the {args.cut:g} s of the cut", flush=True)
        restored_s = time.time()
        while not said(run, "serves again", since_s=restored_s):
            if run.process.poll() is not None or time.time() - restored_s > 300:
                raise SystemExit("the generator never came back")
            time.sleep(0.2)
        print(f"serves again {time.time() - restored_s:.1f} s after the link came back")
        wait_for_step(run, step_of(run) + 2)
        network.link("right", "down")
        run.process.wait(timeout=1200)
    finally:
        if run.process.poll() is None:
            run.end()
    problems = check(run, steps=args.steps)
    if not during:
        problems.append("the run stood still during the cut")
    pushed = [row["weights/bytes"] for row in rows_of(run) if "weights/bytes" in row]
    came = network.received_bytes("left")
    print(f"{len(pushed)} pushes of {sum(pushed) / 1e6:.1f} MB, {came / 1e6:.1f} MB came to left")
    if args.transport == "gloo" and came < sum(pushed):
        problems.append("weights did not cross the network")
    assert cut_s and saved(run)
    print("nothing was lost" if not problems else f"LOST: {problems}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
