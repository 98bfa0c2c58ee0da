"""`rlpost sft` that scores a suite: generators answer with what training has reached."""

import json

import pytest
from cli_runs import finish, metrics
from supervised_runs import start, write_rows

from rlpost.evaluation.suites.catalog import SUITES
from rlpost.models.origin import export_record

pytestmark = pytest.mark.timeout(900)
STEPS, ITEMS = 60, 3
NAME = "val-core/general/acc/mean@1"


@pytest.fixture(scope="module")
def scored(tmp_path_factory, tiny_untied_model):
    """A model that learns the answers to the very items that it is asked."""
    place = tmp_path_factory.mktemp("suites")
    items = SUITES["general"].held_out()[:ITEMS]
    rows = [
        [{"role": "user", "content": each.prompt}, {"role": "assistant", "content": each.answer}]
        for each in items
    ]
    write_rows(place / "train.jsonl", [{"messages": row} for row in rows])
    process = start(
        place,
        "sft",
        tiny_untied_model,
        "scored",
        "data.train=train.jsonl",
        f"trainer.steps={STEPS}",
        f"examples_per_step={ITEMS}",
        "trainer.lr=2e-2",
        "trainer.lr_schedule=constant",
        "evaluation.suites=[general]",
        f"evaluation.suite_size={ITEMS}",
        "evaluation.max_tokens=24",
        "evaluation.every=30",
        "generator.dtype=float32",
        "generator.threads=1",
        f"checkpoint.best_metric={NAME}",
        "checkpoint.every=30",
        "export.which=best",
    )
    output = finish(process)
    assert process.returncode == 0, output
    return place / "runs" / "scored"


def test_the_score_is_of_what_was_trained(scored):
    rows = {row["step"]: row for row in metrics(scored) if NAME in row}
    assert sorted(rows) == [0, 30, 60]
    assert rows[0][NAME] == 0 and rows[60][NAME] > 0.5, "the last push has what was learned"
    for row in rows.values():
        assert row["val-core/general/missing"] == 0
        assert row[f"{NAME}/low"] <= row[NAME] <= row[f"{NAME}/high"]
        assert row["weights/probe_logprob_diff_mean"] < 1e-3
    assert [rows[step]["weights/version"] for step in (0, 30, 60)] == [1, 2, 3]


def test_nothing_is_pushed_between_scorings(scored):
    pushed = [row["step"] for row in metrics(scored) if "timing_s/update_weights" in row]
    assert pushed == [0, 30, 60]


def test_the_best_checkpoint_is_that_of_the_best_score(scored):
    record = export_record(scored / "export")
    reached = {row["step"]: row[NAME] for row in metrics(scored) if NAME in row and row["step"]}
    best = max(reached, key=lambda step: (reached[step], -step))
    assert (record["step"], record["which"]) == (best, "best")
    assert record["results"][NAME] == reached[best]
    assert json.loads((scored / "cost.json").read_text())["spent"]["wall_s"] > 0
