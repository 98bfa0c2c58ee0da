"""What makes pytest behave as it does here, in a directory without our tests."""

import shutil
from pathlib import Path

TESTS = Path(__file__).parent


def make_empty_suite(place: Path) -> None:
    """Copy our hooks and fixtures to ``place``; no room may start anything there."""
    for name in ("conftest.py", "budget.py"):
        shutil.copy(TESTS / name, place)
    shutil.copytree(TESTS / "starts", place / "starts")
    (place / "budget.toml").touch()
