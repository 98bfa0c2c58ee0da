"""``rlpost scale RUN NUM``: give a run that goes on more generators, or fewer."""

import argparse
from pathlib import Path

from rlpost.cli.exit_code import exit_code
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.scale_request import request_generators


def main(argv: list[str]) -> int:
    """Leave the request where the run looks for it; return 0 or 2."""
    parser = argparse.ArgumentParser(
        prog="rlpost scale",
        description="Ask a running job for another number of generators. New ones take the "
        "current weights and then serve; those that leave finish what they have.",
    )
    parser.add_argument("run", type=Path, help="run directory, for example runs/quickstart")
    parser.add_argument("num", type=int, help="generators from now on, at least 1")
    args = parser.parse_args(argv)

    def command() -> int:
        request_generators(RunDirectory(root=args.run).scale_request, args.num)
        print(f"{args.run} will have {args.num} generators; run.log says when they serve")
        return 0

    return exit_code(command)
