"""What is said of a pipeline before it starts: the times of its stages are their own."""

import json
import re
from pathlib import Path

import yaml

from rlpost.cli.plan import prepared
from rlpost.config.compose import compose_stage
from rlpost.doctor import machine
from rlpost.stages.pipeline.outline import outline
from rlpost.stages.registry import STAGES
from rlpost.stages.step_time import PlannedOn


def said(text: str) -> list[float]:
    return [float(minutes) for minutes in re.findall(r"about (\d+) min here", text)]


def test_the_time_of_a_stage_is_its_own(tmp_path, monkeypatch, tiny_model):
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "q" * 20, "completion": "a" * 80}
    Path("rows.jsonl").write_text("\n".join([json.dumps(row)] * 32))
    options = {"trainer.steps": 200_000, "data.workers": 0}
    stages = [
        {"id": "one", "run": "sft", "data": {"train": "rows.jsonl"}, "set": options},
        {"id": "both", "run": "merge", "from": ["base", "one"], "set": {"merge.method": "linear"}},
    ]
    tree = {"name": "chain", "base": {"path": str(tiny_model)}, "stages": stages}
    Path("file.yaml").write_text(yaml.safe_dump(tree))
    cfg, _ = compose_stage(["pipeline.path=file.yaml"], stage="pipeline")
    text = outline(cfg)
    alone = prepared(
        "sft",
        [f"model.path={tiny_model}", "data.train=rows.jsonl", "data.workers=0",
         "trainer.steps=200000"],
    )  # fmt: skip
    on = PlannedOn(slots=[], gpu=None, cores=machine.cores(), features=machine.cpu_features())
    times = STAGES["sft"].part("timing")(alone, on, mean_response=None)
    assert times.run_s > 300  # more than starting takes
    assert said(text) == [round((times.run_s + 40) / 60)]
    assert "what rlpost merge takes is not estimated" in text
    assert "At most" in text and not list(tmp_path.glob("runs/**/*"))
