"""The objects that W&B's own library makes of the panels hold together without a network."""

import json

import pytest

from rlpost.cli.dashboard import main
from rlpost.tracking.curves.table import sections_of
from rlpost.tracking.wandb.workspace import report, title_of, workspace


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
@pytest.mark.parametrize("stages", [None, ["sft"]])
def test_the_specification_holds_every_panel(make, stages):
    sections = sections_of(stages)
    panels = [panel for section in sections for panel in section.panels]
    made = make(sections, entity="team", project="arith")
    spec = json.loads(made._to_model().model_dump_json(by_alias=True, exclude_none=True))
    plots = {each["chartTitle"]: each for each in _plots(spec)}
    assert list(plots) == [title_of(panel) for panel in panels]
    for panel in panels:
        plot = plots[title_of(panel)]
        assert plot["xAxis"] == "training/global_step"
        assert plot["metrics"] == [*panel.curves, *(panel.band or ())]
        assert plot.get("metricRegex") == (panel.pattern and f"^{panel.pattern}$")
    assert "arith" in json.dumps(spec) and "team" in json.dumps(spec)


def test_without_a_login_it_says_so(capsys):
    assert main(["wandb", "--project", "x"]) == 2
    error = capsys.readouterr().err
    assert "needs a W&B login" in error and "WANDB_API_KEY" in error
    assert "Traceback" not in error and error.count("\n") <= 3


def test_without_a_network_it_says_so(capsys, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert main(["wandb", "--entity", "team", "--stage", "rl"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "W&B did not take the dashboard" in error and "check the network" in error
    assert "Traceback" not in error
