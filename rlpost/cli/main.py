"""``rlpost <stage> [hydra overrides]``: the door.

Owns dispatch and exit codes: 0 done, 1 the run failed, 2 the user can fix it, 130
interrupted after saving. Imports nothing heavy, so that ``--help`` is instant.
"""

import argparse
import difflib
import importlib
import sys

from rlpost.stages.registry import STAGES

_OTHERS = {
    "submit": "run a stage as a job on a Ray cluster; follow it, stop it",
    "scale": "give a running job more generators, or fewer",
    "compare": "put runs, or a sweep's members, side by side on one page, and rank them",
    "dashboard": "make the W&B panels people need first",
    "plan": "print where each process would run and its memory, without starting anything",
    "doctor": "check this machine",
}
COMMANDS = {**{stage.name: stage.help for stage in STAGES.values()}, **_OTHERS}
EPILOG = """examples:
  rlpost rl experiment=quickstart                  a 135M model learns multiplication
  rlpost rl experiment=quickstart trainer.lr=1e-5  change anything (hydra overrides)
  rlpost rl experiment=quickstart --cfg job        print the resolved configuration
  rlpost rl --help trainer                         options, of one section or of all
  rlpost rl -m trainer.lr=1e-5,2e-5 seed=1,2       sweep
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the top-level parser; everything after the command belongs to the command."""
    from rlpost import __version__

    parser = argparse.ArgumentParser(
        prog="rlpost",
        description="Post-training for language models with Ray, vLLM and DeepSpeed.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rlpost {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, text in COMMANDS.items():
        # A command prints its own --help, so the subparser must let it through.
        commands.add_parser(name, help=text, add_help=False)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command and return the process's exit code."""
    argv = sys.argv[1:] if argv is None else argv
    first = argv[0] if argv else ""
    if not first or (first not in COMMANDS and not first.startswith("-")):
        print(_unknown(first), file=sys.stderr)
        return 2
    args, rest = build_parser().parse_known_args(argv)
    if args.command in STAGES:
        from rlpost.cli import run

        return run.main(rest, stage=args.command)
    module = importlib.import_module(f"rlpost.cli.{args.command}")
    code: int = module.main(rest)
    return code


def _unknown(word: str) -> str:
    """Return what to say of a word that is no command; of none, the help."""
    if not word:
        return build_parser().format_help()
    close = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ";"
    return f"error: {word!a:.50} is no command{hint} the commands are {', '.join(COMMANDS)}"


if __name__ == "__main__":
    sys.exit(main())
