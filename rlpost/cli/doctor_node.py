"""``rlpost doctor --node``: the nodes of a job examine themselves and each other.

Owns the order of the meeting: readings, a collective, the table. The judgement is
rlpost/doctor/node_checks.py. Exit code: 0 when a job can start on these nodes; 1 otherwise.
"""

import argparse
import json
import os
import socket
import tempfile
import time
from pathlib import Path

from rlpost.cli.exit_code import exit_code
from rlpost.cluster.rendezvous import Rendezvous
from rlpost.doctor.node_checks import judge, lacking
from rlpost.doctor.node_reading import NodeReading, read_node
from rlpost.errors import InfrastructureError

COLLECTIVE_TIMEOUT_S = 30.0


def main(argv: list[str]) -> int:
    """Meet the other nodes; the first one prints the table."""
    return exit_code(lambda: _meet(build_parser().parse_args(argv)))


def build_parser() -> argparse.ArgumentParser:
    """Under srun only ``--nodes`` and ``--address`` have to be given."""
    env = os.environ
    host = socket.gethostname()
    parser = argparse.ArgumentParser(
        prog="rlpost doctor --node",
        description="Examine this node and, run on several at once, whether they are alike and "
        "reach each other. The first one prints what was found.",
    )
    parser.add_argument("--node", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--nodes", default=host, help="names of all nodes, with commas, the first is the host"
    )
    parser.add_argument(
        "--name", default=env.get("SLURMD_NODENAME", host), help="which of them this is"
    )
    parser.add_argument("--address", default="127.0.0.1", help="of the first node")
    parser.add_argument("--port", type=int, default=29400, help="for the meeting, on the first")
    parser.add_argument("--ports", default="", help="that the job wants on the first, with commas")
    parser.add_argument(
        "--disk", type=Path, action="append", help="directory that needs room; may be repeated"
    )
    parser.add_argument("--deadline-s", type=float, default=120.0, help="for all to answer")
    return parser


def _meet(args: argparse.Namespace) -> int:
    names: list[str] = args.nodes.split(",")
    if args.name not in names:
        raise InfrastructureError(f"--name: {args.name} is not one of --nodes {args.nodes}")
    rank = names.index(args.name)
    wanted = [int(port) for port in filter(None, args.ports.split(","))] if rank == 0 else []
    reading = read_node(
        args.name,
        head_address=args.address,
        disks=args.disk or [Path.cwd(), Path(tempfile.gettempdir())],
        ports=wanted,
    )
    meeting = Rendezvous(
        names, rank=rank, address=args.address, port=args.port, timeout_s=args.deadline_s
    )
    meeting.say("reading", reading.to_json())
    if rank == 0:
        return _host(meeting, names, reading, deadline_s=args.deadline_s)
    return _attend(meeting, names, reading, deadline_s=args.deadline_s)


def _host(meeting: Rendezvous, names: list[str], reading: NodeReading, *, deadline_s: float) -> int:
    heard = meeting.hear("reading", timeout_s=deadline_s)
    readings = {name: NodeReading.from_json(text) for name, text in heard.items()}
    go_on = len(readings) == len(names) and all(r.interface for r in readings.values())
    meeting.say("next", "add up" if go_on else "go home")
    results: dict[str, dict[str, str]] = {}
    if go_on:
        meeting.say("sum", _add_up(meeting, reading))
        told = meeting.hear("sum", timeout_s=COLLECTIVE_TIMEOUT_S)
        results = {name: json.loads(text) for name, text in told.items()}
    findings = list(
        judge(
            names,
            readings,
            sums={name: result["sum"] for name, result in results.items()},
            clocks_s={name: float(result["clock_s"]) for name, result in results.items()},
        )
    )
    from rich.console import Console

    from rlpost.cli.findings import table

    console = Console(width=None if os.isatty(1) else 110)
    console.print(table(findings, title=f"rlpost doctor --node: {', '.join(names)}"))
    for finding in lacking(findings):
        console.print(f"{finding.name}: {finding.advice}", soft_wrap=True, highlight=False)
    return 1 if lacking(findings) else 0


def _attend(
    meeting: Rendezvous, names: list[str], reading: NodeReading, *, deadline_s: float
) -> int:
    answer = meeting.hear("next", timeout_s=deadline_s, of=names[:1])
    if not answer:
        raise InfrastructureError(f"{names[0]} does not go on with the preflight")
    if answer[names[0]] == "add up":
        meeting.say("sum", _add_up(meeting, reading))
    return 0  # the first node judges


def _add_up(meeting: Rendezvous, reading: NodeReading) -> str:
    try:
        total = str(meeting.add_up(reading.interface, timeout_s=COLLECTIVE_TIMEOUT_S))
    except InfrastructureError as error:
        total = str(error)
    return json.dumps({"sum": total, "clock_s": time.time()})
