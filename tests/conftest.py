"""Shared set-up: private caches, one thread, tiny models built once."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent))  # `from fakes import ...`
os.environ.setdefault("RLPOST_CACHE", str(ROOT / ".cache"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Two tests at a time on two cores: threads that wait for each other would spin for most of it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A suite that a shell started in the background ignores Ctrl-C, and so would what it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A busy machine must not fail a law by being slow, nor chance by what it draws: `make matrix` has
# other examples drawn, with --hypothesis-profile=chance.
settings.register_profile("rlpost", deadline=None, derandomize=True)
settings.register_profile("chance", deadline=None)
settings.load_profile("rlpost")


class ToldAtOnce:
    """Prints failures as they happen: a suite that is ended from outside may print no more."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._print = terminal.write_line
        self._running: list[str] = []

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._running.append(nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._running.remove(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            why = f"{crash.path}:{crash.lineno}: {crash.message}" if crash else report.longreprtext
            self._print(f"\nFAILED {report.nodeid} ({report.when}): {why[:1000]}")

    def pytest_keyboard_interrupt(self) -> None:
        self._print(f"\nINTERRUPTED while these ran: {', '.join(self._running) or 'none'}")


def pytest_configure(config: pytest.Config) -> None:
    from budget import StartBudget

    config.pluginmanager.register(StartBudget(config))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the rooms with the longest files first, so that no worker waits for another's last."""
    from budget import room_of

    longest = ["system", "cluster", "simulation", "training", "verifiers", "weights", "config"]
    rank = {room: number for number, room in enumerate(longest)}
    items.sort(key=lambda item: rank.get(room_of(item.path), len(longest)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Begin each test with the same random numbers, whichever tests this process ran before.

    Python's own are left alone: names and ports that are drawn with them must differ between
    processes.
    """
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)


def pytest_sessionstart(session: pytest.Session) -> None:
    # Only the process that prints has one; pytest-xdist's workers have none.
    if terminal := session.config.pluginmanager.getplugin("terminalreporter"):
        session.config.pluginmanager.register(ToldAtOnce(terminal))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A tiny random llama with tied embeddings."""
    from rlpost.models.tiny import build_tiny_llama

    return build_tiny_llama(tmp_path_factory.mktemp("models") / "tied")


@pytest.fixture(scope="session")
def tiny_untied_model(tmp_path_factory) -> Path:
    """A tiny random llama whose ``lm_head`` has weights of its own."""
    from rlpost.models.tiny import build_tiny_llama

    return build_tiny_llama(tmp_path_factory.mktemp("models") / "untied", tied=False)


@pytest.fixture(scope="session")
def tiny_reward(tmp_path_factory, tiny_model) -> Path:
    """``tiny_model`` as a reward model with a random head."""
    from reward_models import build_reward_model

    return build_reward_model(tmp_path_factory.mktemp("models") / "reward", tiny_model)


@pytest.fixture
def counted(tmp_path, monkeypatch) -> Callable[[], list[str]]:
    """Returns the kinds that this test has started so far; budget.py counts them, too."""
    of_suite = Path(os.environ["STARTS_FILE"])
    own = tmp_path / "starts"
    own.touch()
    monkeypatch.setenv("STARTS_FILE", str(own))
    yield lambda: [line.split()[1] for line in own.read_text().splitlines()]
    with of_suite.open("a") as file:
        file.write(own.read_text())
