"""``rlpost compare RUN...``: several runs on one page, ranked."""

import argparse
from pathlib import Path

from rlpost.cli.exit_code import exit_code


def main(argv: list[str]) -> int:
    """Write the page and say where it is; return 0 or 2."""
    parser = argparse.ArgumentParser(
        prog="rlpost compare",
        description="Compare runs on one self-contained page: their curves, the settings in which "
        "they differ, and a ranking. A sweep's directory stands for its members.",
    )
    parser.add_argument("runs", type=Path, nargs="+", help="runs or sweeps, for example runs/*")
    parser.add_argument(
        "--metric", help="what ranks them; default: the held-out result, else reward or loss"
    )
    parser.add_argument(
        "--lowest",
        action=argparse.BooleanOptionalAction,
        help="the lowest value is the best; default: for losses and perplexities",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="the page; default: sweep.html in a sweep, else compare.html here",
    )
    args = parser.parse_args(argv)

    def command() -> int:
        from rlpost.tracking.report.comparison import write_comparison

        alone = len(args.runs) == 1 and (args.runs[0] / "members").is_dir()
        usual = args.runs[0] / "sweep.html" if alone else Path("compare.html")
        page = write_comparison(
            args.output or usual, args.runs, metric=args.metric, lowest_first=args.lowest
        )
        print(page)
        return 0

    return exit_code(command)
