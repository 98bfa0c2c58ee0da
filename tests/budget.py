"""How many engines the tests of each room may start, and how many they did.

Owns the comparison with budget.toml, which fails a suite that starts more. Refuses to own the
counting (starts/sitecustomize.py). Counts and never times: a count is the same on any machine.
"""

import os
import runpy
import tempfile
import tomllib
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
KINDS = {
    "ray_sessions": "Ray sessions",
    "vllm_boots": "vLLM boots",
    "deepspeed_starts": "DeepSpeed starts",
}
Budgets = dict[str, dict[str, int]]  # by room and kind


class StartBudget:
    """A plugin of pytest: tells each test's processes its room, and judges the sum at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._is_worker = hasattr(config, "workerinput")  # pytest-xdist's; its parent judges
        self._over: list[str] = []
        self._found: Budgets = {}

    @pytest.hookimpl(tryfirst=True)  # pytest-xdist's workers inherit what is set here
    def pytest_sessionstart(self) -> None:
        if not self._is_worker:
            number, path = tempfile.mkstemp(prefix="starts-")
            os.close(number)
            os.environ["STARTS_FILE"] = path
        folder = str(TESTS / "starts")
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if folder not in paths:  # else this process began with it
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, *paths]))
            runpy.run_path(f"{folder}/sitecustomize.py")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        os.environ["STARTS_ROOM"] = room_of(item.path)
        return (yield)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._is_worker:
            return
        file = Path(os.environ["STARTS_FILE"])
        self._found = read_starts(file)
        file.unlink()
        self._over = excesses(self._found, read_budgets())
        if self._over and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        budgets = read_budgets()
        for room, counts in sorted(self._found.items()):
            allowed = budgets.get(room, {})
            parts = (f"{counts[k]} of {allowed.get(k, 0)} {KINDS[k]}" for k in KINDS if k in counts)
            terminalreporter.write_line(f"tests of {room}: {', '.join(parts)}")
        for sentence in self._over:
            terminalreporter.write_line(f"FAILED {sentence}", red=True)


def room_of(path: Path) -> str:
    """The directory below tests/ that holds ``path``; ``tests`` for a file beside them."""
    parts = path.relative_to(TESTS).parts
    return parts[0] if len(parts) > 1 else TESTS.name


def read_starts(file: Path) -> Budgets:
    """What was started, by room and kind."""
    found: Budgets = {}
    for line, count in Counter(file.read_text().splitlines()).items():
        room, kind = line.split()
        found.setdefault(room, {})[kind] = count
    return found


def read_budgets() -> Budgets:
    budgets = tomllib.loads((TESTS / "budget.toml").read_text())
    for room, allowed in budgets.items():
        assert (TESTS / room).is_dir() or room == TESTS.name, f"budget.toml: no room {room!r}"
        assert allowed.keys() <= KINDS.keys(), f"budget.toml: {room} has other keys than {KINDS}"
    return budgets


def excesses(found: Budgets, budgets: Budgets) -> list[str]:
    """A sentence for each kind of which a room started more than its budget."""
    return [
        f"tests of {room}: {count} {KINDS[kind]}, and tests/budget.toml allows {allowed}; let "
        "tests share one, or raise the number there and say in the commit why it is worth it"
        for room, counts in sorted(found.items())
        for kind, count in counts.items()
        if count > (allowed := budgets.get(room, {}).get(kind, 0))
    ]
