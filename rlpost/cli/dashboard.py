"""``rlpost dashboard wandb``: the panels people need first, made in W&B."""

import argparse

from rlpost.cli.exit_code import exit_code
from rlpost.tracking.curves.table import STAGE_SECTIONS, sections_of


def main(argv: list[str]) -> int:
    """Create the workspace and the report; return 0 or 2."""
    parser = argparse.ArgumentParser(
        prog="rlpost dashboard",
        description="Create a dashboard for the runs of a project.",
    )
    kinds = parser.add_subparsers(dest="kind", metavar="kind", required=True)
    wandb = kinds.add_parser(
        "wandb",
        help="a W&B workspace and a W&B report; needs a login and the network",
        description="Create a W&B workspace and a W&B report with the panels people need first. "
        "Runs that were recorded offline appear once `wandb sync` has uploaded them.",
    )
    wandb.add_argument("--project", default="rlpost", help="as tracking.project; default: rlpost")
    wandb.add_argument(
        "--stage",
        action="append",
        choices=list(STAGE_SECTIONS),
        help="only the panels of this stage; may be repeated; default: all stages",
    )
    wandb.add_argument("--entity", help="user or team; default: the account's own")
    args = parser.parse_args(argv)

    def command() -> int:
        from rlpost.tracking.wandb.workspace import publish

        sections = sections_of(args.stage)
        for address in publish(sections, entity=args.entity, project=args.project):
            print(address)
        return 0

    return exit_code(command)
