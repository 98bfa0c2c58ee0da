"""``python -m rlpost.cli.slurm``: what launch/slurm/lib.sh asks of Python.

Owns the options. The work is done in rlpost/launch/: ray_node.py, readiness.py, sweep/member.py.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from rlpost.cli.exit_code import exit_code


def main(argv: list[str] | None = None) -> int:
    """Run one of the subcommands; returns its exit code."""
    args = build_parser().parse_args(argv)
    return exit_code(lambda: int(args.run(args)), stage=next(iter(args.command), None))


def build_parser() -> argparse.ArgumentParser:
    """Under srun, names and numbers of the node come from Slurm's variables."""
    parser = argparse.ArgumentParser(prog="python -m rlpost.cli.slurm", description=__doc__)
    parser.set_defaults(command=())
    commands = parser.add_subparsers(required=True)

    node = commands.add_parser("node", help="run Ray on this node until standard input ends")
    node.add_argument("--name", default=os.environ.get("SLURMD_NODENAME"))
    node.add_argument("--head", required=True, help="name of the head node")
    node.add_argument("--address", required=True, help="of the head node")
    node.add_argument("--port", type=int, required=True, help="of the head node")
    node.add_argument("--temp-dir", type=Path, required=True, help="a node's number is added")
    node.add_argument("--logs", type=Path, required=True, help="a node's name is added")
    node.add_argument("--deadline-s", type=float, required=True)
    node.add_argument("more", nargs="*", help="further options of `ray start`, after --")
    node.set_defaults(run=_node)

    wait = commands.add_parser("wait", help="wait until every node joined the Ray cluster")
    wait.add_argument("--address", required=True, help="host:port of the head")
    wait.add_argument("--nodes", required=True, help="names, with commas")
    wait.add_argument("--deadline-s", type=float, required=True)
    wait.set_defaults(run=_wait)

    member = commands.add_parser("member", help="print a sweep member's command line, NUL-ended")
    member.add_argument("--index", type=int, required=True)
    member.add_argument("command", nargs=argparse.REMAINDER, help="stage and overrides")
    member.set_defaults(run=_member)
    return parser


def _node(args: argparse.Namespace) -> int:
    from rlpost.launch.ray_node import NodeSettings, run_node

    logging.basicConfig(level=logging.INFO, format=f"{args.name}: %(message)s")
    number = os.environ.get("SLURM_NODEID", "0")
    return run_node(
        NodeSettings(
            name=args.name,
            address=args.address,
            port=args.port,
            is_head=args.name == args.head,
            # Numbers, because paths of sockets are limited to some hundred characters.
            temp_dir=args.temp_dir.with_name(f"{args.temp_dir.name}-{number}"),
            logs=args.logs / args.name,
            num_cpus=_number("SLURM_CPUS_ON_NODE"),
            num_gpus=_number("SLURM_GPUS_ON_NODE"),
            more=args.more,
            deadline_s=args.deadline_s,
        )
    )


def _wait(args: argparse.Namespace) -> int:
    from rlpost.launch.readiness import await_nodes, joined_nodes

    names = args.nodes.split(",")
    await_nodes(names, deadline_s=args.deadline_s, joined=joined_nodes(args.address))
    print(f"Ray runs at {args.address} on {', '.join(names)}")
    return 0


def _member(args: argparse.Namespace) -> int:
    from rlpost.launch.sweep.member import member_command

    sys.stdout.write("".join(f"{each}\0" for each in member_command(args.command, args.index)))
    return 0


def _number(variable: str) -> int | None:
    value = os.environ.get(variable)
    return None if value is None else int(value)


if __name__ == "__main__":
    sys.exit(main())
