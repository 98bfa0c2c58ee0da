"""`rlpost preference` from files to an exported model: from step 0, resumed, and judged rows."""

import json
import math

import pytest
from cli_runs import metrics
from plain_preference import rows
from supervised_runs import (
    assert_same,
    completed,
    cut_back,
    measured,
    start,
    went_on,
    write_rows,
)
from transformers import AutoModelForCausalLM

from rlpost.models.origin import export_record
from rlpost.tracking.files.examples import read_examples

pytestmark = pytest.mark.timeout(900)
STEPS = 6
MEASURED = (
    "step",
    "preference/loss",
    "preference/grad_norm",
    "rewards/margins",
    "rewards/accuracies",
    "preference/heldout_loss",
    "preference/heldout_accuracy",
    "preference/heldout_margin/heldout",
    "training/epoch",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("preference")
    pairs = [
        {"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected} for row in rows(22)
    ]
    write_rows(place / "pairs.jsonl", pairs[:16])
    write_rows(place / "heldout.jsonl", pairs[16:])
    return place


def run(place, model, name, *overrides):
    return start(
        place,
        "preference",
        model,
        name,
        "data.train=pairs.jsonl",
        "data.heldout=heldout.jsonl",
        f"trainer.steps={STEPS}",
        "examples_per_step=5",
        "trainer.max_tokens_per_micro_batch=512",
        "evaluation.every=3",
        "checkpoint.every=2",
        "checkpoint.keep=2",
        *overrides,
    )


@pytest.fixture(scope="module")
def whole(place, tiny_untied_model):
    """A run that nothing disturbed."""
    completed(run(place, tiny_untied_model, "whole"))
    return place / "runs" / "whole"


def test_it_begins_at_log_2_and_learns_to_prefer(whole):
    steps = [row for row in measured(whole, MEASURED) if "preference/loss" in row]
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert steps[0]["preference/loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert steps[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)
    held = {row["step"]: row for row in metrics(whole) if "preference/heldout_loss" in row}
    assert sorted(held) == [0, 3, 6]
    assert held[0]["preference/heldout_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert held[6]["preference/heldout_loss"] < held[0]["preference/heldout_loss"]
    assert held[6]["preference/heldout_accuracy"] == 1
    assert held[6]["preference/heldout_margin/heldout"] > 0
    AutoModelForCausalLM.from_pretrained(whole / "export")


def test_what_it_leaves_tells_what_it_learned_from(whole):
    shown = read_examples(whole / "examples.jsonl")
    assert [each["judgement"] for each in shown] == ["chosen", "rejected"] * 3
    assert [each["address"].rpartition("/")[2] for each in shown[:2]] == ["pairs.jsonl:1"] * 2
    record = export_record(whole / "export")
    assert record is not None and record["run_step"] == STEPS
    card = (whole / "export" / "README.md").read_text()
    assert "preference" in card and "pairs" in card
    cost = json.loads((whole / "cost.json").read_text())
    assert cost
    assert "chosen" in (whole / "report.html").read_text()


def test_a_resumed_run_goes_on_to_the_same_numbers(place, whole, tiny_untied_model):
    cut = cut_back(whole, "cut", to=4)
    completed(run(place, tiny_untied_model, "cut"))
    assert went_on(cut, after=4)
    assert_same(cut, whole, MEASURED, ended_after=4)


def test_judged_completions_against_a_second_model(place, tiny_untied_model):
    """Pairs are two judged completions each; the reference runs beside the policy."""
    overrides = ("loss=kto", "reference.mode=live", "trainer.steps=2", "checkpoint.every=0")
    completed(run(place, tiny_untied_model, "judged", *overrides))
    steps = [row for row in metrics(place / "runs" / "judged") if "preference/loss" in row]
    assert steps[0]["preference/loss"] == pytest.approx(0.5, abs=1e-4)
    shown = read_examples(place / "runs" / "judged" / "examples.jsonl")
    assert {each["judgement"] for each in shown} == {"good", "bad"}
