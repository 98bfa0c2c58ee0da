"""What cannot work ends with exit code 2, the place, the rule and a way out, and leaves nothing."""

import pytest
from supervised_runs import write_rows

from rlpost.cli.main import main

GOOD = {"prompt": "What is 2 + 2?", "chosen": "4, as always.", "rejected": "5, perhaps."}
JUDGED = [
    {"prompt": "What is 2 + 2?", "completion": "4", "label": True},
    {"prompt": "What is 2 + 3?", "completion": "6", "label": False},
]


@pytest.fixture
def refused(tmp_path, tiny_model, monkeypatch, capsys):
    """Run the stage, which must be refused; returns what it said, on one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLPOST_CACHE", str(tmp_path.parent / f"{tmp_path.name}-cache"))

    def run(*overrides, rows=(GOOD,), model=tiny_model):
        write_rows(tmp_path / "train.jsonl", rows)
        before = sorted(tmp_path.iterdir())
        words = ["preference", f"model.path={model}", "data.workers=0", "data.train=train.jsonl"]
        assert main([*words, *overrides]) == 2
        assert sorted(tmp_path.iterdir()) == before
        return " ".join(capsys.readouterr().err.split())

    return run


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**GOOD, "chosen": " "}, "column 'chosen' is empty"),
        ({**GOOD, "rejected": ""}, "column 'rejected' is empty"),
        ({**GOOD, "rejected": GOOD["chosen"]}, "are the same"),
        ({"chosen": "4", "rejected": "5"}, "add the prompt"),
        ({"prompt": "2 + 2?", "completion": "4"}, "format"),
        (JUDGED[0], "Use rlpost preference loss=kto"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(refused, row, said):
    words = refused(rows=[GOOD, row])
    assert "train.jsonl:2" in words and said in words, words


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (JUDGED[:1] * 3, "the label of all 3 completions is the same: each is good"),
        (JUDGED[1:], "each is bad"),
        ([*JUDGED, {**JUDGED[0], "label": 2}], "train.jsonl:3"),
        ([*JUDGED, {**JUDGED[0], "label": None}], "train.jsonl:3"),
        (
            [{**each, "prompt": "What?"} for each in JUDGED],
            "train.jsonl:1: each row of train has this row's prompt",
        ),
    ],
)
def test_judged_rows_that_teach_nothing(refused, rows, said):
    assert said in refused("loss=kto", rows=rows)


def test_a_pair_that_no_micro_batch_holds(refused):
    words = refused("trainer.max_tokens_per_micro_batch=50")
    assert "train.jsonl:1" in words and "raise trainer.max_tokens_per_micro_batch" in words
    assert "its prompt once" in words
    twice = refused("trainer.max_tokens_per_micro_batch=90", "trainer.share_prompts=false")
    assert "its prompt twice" in twice


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["loss=nll"], "loss must be one of"),
        (["loss=dpo", "loss.gamma=1"], "loss.gamma"),
        (["loss.beta=0"], "0.1 is usual"),
        (["loss=orpo", "reference.mode=live"], "loss=orpo compares with no reference"),
        (["loss=simpo", "reference.path=x"], "loss=simpo compares with no reference"),
        (["loss=kto", "examples_per_step=1"], "examples_per_step must be at least 2"),
        (["reference.path=nowhere/at/all"], "reference.path: 'nowhere/at/all' does not exist"),
        (["reference.path="], "reference.path names no model"),
        (["model.path="], "model.path names no model"),
        (["cluster.address="], "cluster.address names no cluster"),
        (["data.train=file:"], "data.train names no rows"),
        (["data.heldout=' '"], "data.heldout: no data source is called"),
        (["resume="], "resume= is not a whole checkpoint"),
        (["cluster.offload_idle=true"], "set reference.mode=live"),
        (["loss=cpo", "cluster.offload_idle=true"], "without a second model; leave it out"),
        (["cluster.placement=colocated"], "set reference.mode=live"),
        (["evaluation.every=3"], "no rows are held out"),
        (["early_stopping.metric=preference/heldout_loss"], "set data.heldout=FILE"),
        (["data.train_on=all"], "rlpost preference --help"),
    ],
)
def test_options_that_cannot_be(refused, overrides, said):
    assert said in refused(*overrides)


def test_a_metric_that_no_evaluation_measures(refused):
    rows = [{**GOOD, "prompt": f"{n}?"} for n in range(9)]
    words = refused(
        "checkpoint.best_metric=preference/heldout_acc", "data.heldout_fraction=0.5", rows=rows
    )
    assert "preference/heldout_accuracy, preference/heldout_accuracy/train" in words


def test_a_reward_model_is_no_policy_and_no_reference(refused, tiny_reward):
    assert "model.path" in refused(model=tiny_reward)
    words = refused(f"reference.path={tiny_reward}")
    assert "reference.path" in words and "ForSequenceClassification" in words
