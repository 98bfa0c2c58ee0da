"""What tests start is counted in every process, summed, and held to a budget."""

import os
import subprocess
import sys

import pytest
from budget import KINDS, TESTS, excesses, read_budgets, room_of
from empty_suite import make_empty_suite

# A stand-in for the package, with what the counter looks for. That it looks for the right thing
# in the real ones is seen where they are started: `counted` of conftest.py.
ENGINE = "class DeepSpeedEngine:\n    pass\n\n    def __init__(self):\n        pass\n"
STARTS_ONE = """
import subprocess, sys

def test_start():
    code = "from deepspeed.runtime.engine import DeepSpeedEngine; DeepSpeedEngine()"
    subprocess.run([sys.executable, {options} "-c", code], check=True)
"""


@pytest.fixture
def suite(tmp_path):
    """Run two files of a room in two pytest workers; each starts an engine in a subprocess."""
    make_empty_suite(tmp_path)
    engine = tmp_path / "installed" / "deepspeed" / "runtime" / "engine.py"
    engine.parent.mkdir(parents=True)
    engine.write_text(ENGINE)
    for package in (engine.parent, engine.parents[1]):
        (package / "__init__.py").touch()

    def run(*, allowed: int, options: str = "") -> subprocess.CompletedProcess[str]:
        (tmp_path / "budget.toml").write_text(f"[room]\ndeepspeed_starts = {allowed}\n")
        for name in ("a", "b"):
            test = tmp_path / "room" / f"test_{name}.py"
            test.parent.mkdir(exist_ok=True)
            test.write_text(STARTS_ONE.format(options=options))
        return subprocess.run(
            [*(sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile"), "room"],
            env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
            cwd=tmp_path, capture_output=True, text=True, timeout=200,
        )  # fmt: skip

    return run


def test_a_room_that_starts_more_than_its_budget_fails_the_suite(suite):
    result = suite(allowed=1)
    assert result.returncode == 1 and "2 passed" in result.stdout, result.stdout
    assert "\ntests of room: 2 of 1 DeepSpeed starts\n" in result.stdout
    assert "\nFAILED tests of room: 2 DeepSpeed starts, and tests/budget.toml allows 1; let" in (
        result.stdout
    )


def test_a_room_within_its_budget_passes(suite):
    result = suite(allowed=2)
    assert result.returncode == 0, result.stdout
    assert "\ntests of room: 2 of 2 DeepSpeed starts\n" in result.stdout


def test_without_the_counter_nothing_is_counted(suite):
    """The negative control: -S leaves sitecustomize.py out."""
    result = suite(allowed=0, options='"-S",')
    assert result.returncode == 0 and "2 passed" in result.stdout, result.stdout
    assert "DeepSpeed starts" not in result.stdout


def test_budgets_are_of_rooms_and_kinds():
    budgets = read_budgets()
    assert budgets and all(number > 0 for each in budgets.values() for number in each.values())
    assert room_of(TESTS / "algorithms" / "advantages" / "test_base.py") == "algorithms"
    assert room_of(TESTS / "test_budget.py") == "tests"


def test_what_has_no_budget_may_start_nothing():
    assert not excesses({"a": {"vllm_boots": 2}}, {"a": {"vllm_boots": 2}})
    (sentence,) = excesses({"a": {"vllm_boots": 1}}, {"a": {"ray_sessions": 1}})
    assert KINDS["vllm_boots"] in sentence and "allows 0" in sentence
