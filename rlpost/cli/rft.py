"""``rlpost rft``: rejection-sampling fine-tuning, which is ``rlpost rl`` with other choices."""

from rlpost.cli import rl


def main(argv: list[str]) -> int:
    """Run the stage; returns the exit code."""
    return rl.main(argv, stage="rft")
