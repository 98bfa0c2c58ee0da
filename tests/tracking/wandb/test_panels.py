"""No panel may name a metric that no run records; the objects hold together without a network."""

import ast
import json
import re
from pathlib import Path

import pytest

import rlpost
from rlpost.cli.dashboard import main
from rlpost.tracking.wandb.panels import SECTIONS
from rlpost.tracking.wandb.workspace import report, workspace

ROOMS = ("algorithms", "cluster", "rollout", "stages", "training", "verifiers", "weights")
PANELS = [panel for section in SECTIONS for panel in section.panels]


class Recorded:
    """The metric names that the rooms which measure can make: their strings and f-strings."""

    def __init__(self):
        self.words, self.patterns, self.timed = set(), set(), set()
        for room in ROOMS:
            for path in (Path(rlpost.__file__).parent / room).rglob("*.py"):
                for node in ast.walk(ast.parse(path.read_text())):
                    self._take(node)

    def _take(self, node):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            self.words.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = [re.escape(part.value) if isinstance(part, ast.Constant) else HOLE
                     for part in node.values]  # fmt: skip
            if re.search("[a-z]{2}", "".join(parts).replace(HOLE, "")):
                self.patterns.add("".join(parts))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in TIMERS and node.args:
            self.timed.add(getattr(node.args[0], "value", None))

    def __contains__(self, name):
        if name.startswith("timing_s/"):
            return name in self.words or name.removeprefix("timing_s/") in self.timed
        stem, _, end = name.rpartition("/")
        if name in self.words or (end in ("mean", "max", "min") and stem in self.words):
            return True
        for pattern in self.patterns:
            found = re.fullmatch(pattern, name)
            # What fills a hole in front is a prefix that the code spells out.
            if found and (not pattern.startswith(HOLE) or found[1] in self.words):
                return True
        return False


HOLE, TIMERS = r"([\w/@-]+)", ("timed", "add_time", "_timed")


@pytest.fixture(scope="module")
def recorded():
    return Recorded()


LIKE = {  # what a pattern stands for
    r"^val-core/.+/acc/mean@[0-9]+$": ["val-core/arithmetic/acc/mean@2"],
    r"^training/off_policy/staleness/[0-9]+$": ["training/off_policy/staleness/1"],
    r"^training/off_policy/drop_rate/q[1-4]$": ["training/off_policy/drop_rate/q4"],
    r"^verifier/.+/(error|timeout)_rate$": [
        "verifier/math/error_rate", "verifier/math/timeout_rate",
    ],
    r"^verifier/.+/latency_s$": ["verifier/math/latency_s"],
    r"^verifier/.+/mean$": ["verifier/math/mean"],
}  # fmt: skip


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_panel_shows_what_is_recorded(panel, recorded):
    for name in panel.metrics or LIKE[panel.pattern]:
        assert panel.pattern is None or re.search(panel.pattern, name)
        assert name in recorded, name


def test_the_look_up_knows_what_is_not_recorded(recorded):
    for name in (
        "critic/scores/mean",
        "timing_s/generate",
        "perf/tokens",
        "actor/kl_los",
        "timing_s/save",
    ):
        assert name not in recorded, name


def test_names_of_a_synthetic_run_are_known_to_the_look_up(recorded, runs):
    unknown = {name for name in runs.step_metrics(1) if name not in recorded}
    assert not unknown


def test_what_people_need_first_is_there():
    shown = {name for panel in PANELS for name in (*panel.metrics, panel.pattern or "")}
    for needed in ("critic/score/mean", "rollout_corr/kl", "actor/kl_loss", "perf/throughput",
                   "training/off_policy/trajectory_staleness/max", "timing_s/gen",
                   *LIKE):  # fmt: skip
        assert needed in shown, needed
    titles = [panel.title for panel in PANELS]
    assert len(set(titles)) == len(titles)


def _plots(value):
    if isinstance(value, dict):
        if value.get("viewType") == "Run History Line Plot":
            yield value["config"]
        for each in value.values():
            yield from _plots(each)
    elif isinstance(value, list):
        for each in value:
            yield from _plots(each)


@pytest.mark.parametrize("make", [workspace, report])
def test_the_specification_holds_every_panel(make):
    made = make(entity="team", project="arith")
    spec = json.loads(made._to_model().model_dump_json(by_alias=True, exclude_none=True))
    plots = {each["chartTitle"]: each for each in _plots(spec)}
    assert list(plots) == [panel.title for panel in PANELS]
    for panel in PANELS:
        plot = plots[panel.title]
        assert plot["xAxis"] == "training/global_step"
        assert plot["metrics"] == list(panel.metrics)
        assert plot.get("metricRegex") == panel.pattern
    assert "arith" in json.dumps(spec) and "team" in json.dumps(spec)


def test_without_a_login_it_says_so(capsys):
    assert main(["wandb", "--project", "x"]) == 2
    error = capsys.readouterr().err
    assert "needs a W&B login" in error and "WANDB_API_KEY" in error
    assert "Traceback" not in error and error.count("\n") <= 3


def test_without_a_network_it_says_so(capsys, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert main(["wandb", "--entity", "team"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "W&B did not take the dashboard" in error and "check the network" in error
    assert "Traceback" not in error
