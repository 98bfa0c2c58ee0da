"""``rlpost compare RUN...``: several runs on one page, ranked; evaluations with their answers."""

import argparse
from pathlib import Path

from rlpost.cli.exit_code import exit_code


def main(argv: list[str]) -> int:
    """Write the page and say where it is; return 0 or 2."""
    parser = argparse.ArgumentParser(
        prog="rlpost compare",
        description="Compare runs on one self-contained page: their curves, the settings in which "
        "they differ, and a ranking. A sweep's directory stands for its members. Of several "
        "evaluations it has scores, paired differences from the first, and all answers side by "
        "side.",
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
        from rlpost.stages.run_directory import RunDirectory

        ranked = args.metric is not None or args.lowest is not None
        answered = [RunDirectory(root=each).evaluation.is_file() for each in args.runs]
        if len(args.runs) > 1 and not ranked and all(answered):
            return _side_by_side(args.runs, args.output or Path("compare.html"))
        from rlpost.tracking.report.comparison import write_comparison

        alone = len(args.runs) == 1 and (args.runs[0] / "members").is_dir()
        usual = args.runs[0] / "sweep.html" if alone else Path("compare.html")
        page = write_comparison(
            args.output or usual, args.runs, metric=args.metric, lowest_first=args.lowest
        )
        print(page)
        return 0

    return exit_code(command)


def _side_by_side(runs: list[Path], page: Path) -> int:
    from rlpost.stages.evaluate.side_by_side import write_side_by_side
    from rlpost.stages.evaluate.table import as_text

    print(as_text(write_side_by_side(page, runs)))
    print(page)
    return 0
