"""What cannot work ends with exit code 2, the place, the rule and a way out, and leaves nothing."""

import pytest
from reward_models import build_step_model
from supervised_runs import write_rows

from rlpost.cli.main import main

PAIR = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "margin": 0.5}
STEPS = {"prompt": "2 + 2 + 2?", "completions": ["2 + 2 = 4", "4 + 2 = 7"], "labels": [1, 0]}
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.fixture
def refused(tmp_path, tiny_model, monkeypatch, capsys):
    """Run a stage that must be refused; returns what it said, on one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLPOST_CACHE", str(tmp_path.parent / f"{tmp_path.name}-cache"))

    def run(*overrides, rows=(PAIR,), stage="reward", model=tiny_model):
        write_rows(tmp_path / "train.jsonl", rows)
        before = sorted(tmp_path.iterdir())
        words = [stage, f"model.path={model}", "data.train=train.jsonl"]
        words += ["data.workers=0"] if stage != "rl" else []
        assert main([*words, *overrides]) == 2
        assert sorted(tmp_path.iterdir()) == before
        return " ".join(capsys.readouterr().err.split())

    return run


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**PAIR, "chosen": ""}, "'chosen' is empty"),
        ({**PAIR, "rejected": "4"}, "are the same"),
        ({"prompt": "2 + 2?", "completion": "4"}, "format"),
        (STEPS, "format"),
    ],
)  # fmt: skip
def test_a_bad_pair_is_named_by_file_and_line(refused, row, said):
    words = refused(rows=[PAIR, row])
    assert "train.jsonl:2" in words and said in words, words


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**STEPS, "labels": [1]}, "2 'completions', but 1 'labels'"),
        ({**STEPS, "labels": [1, 7]}, "from 0 to 1"),
        ({**STEPS, "completions": ["a", " "]}, "empty"),
        (PAIR, "format"),
    ],
)  # fmt: skip
def test_a_bad_solution_is_named_by_file_and_line(refused, row, said):
    words = refused("loss=step", rows=[STEPS, row])
    assert "train.jsonl:2" in words and said in words, words


def test_labels_that_are_all_equal(refused):
    words = refused("loss=step", rows=[{**STEPS, "labels": [1, 1]}] * 3)
    assert "every step has the label 1" in words and "use data that has both" in words


@pytest.mark.parametrize("margin", [None, "much", True, float("nan")])
def test_a_margin_that_is_no_number(refused, margin):
    words = refused("loss.margin_column=margin", rows=[PAIR, {**PAIR, "margin": margin}])
    assert "train.jsonl:2" in words and "'margin'" in words


def test_a_pair_that_no_micro_batch_holds(refused):
    rows = [PAIR, {**PAIR, "chosen": "x" * 60, "rejected": "y" * 60}]
    words = refused("trainer.max_tokens_per_micro_batch=110", rows=rows)
    assert "train.jsonl:2" in words and "its two responses have" in words


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.step_separator='\n\n'"], "has no effect with loss=bradley_terry"),
        (["loss=step", "data.step_separator=''"], "must not be empty"),
        (["loss=step", "loss.centre=0.1"], "loss.centre"),
        (["loss=dpo"], "loss must be one of bradley_terry, step"),
        (["loss.centre=-1"], "loss.centre must be"),
        (["cluster.offload_idle=true"], "no effect"),
        (["checkpoint.best_metric=reward/heldout_accuracy"], "set data.heldout=FILE"),
        (["experiment=sft_chat"], "sft"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(refused, overrides, said):
    words = refused(*overrides)
    assert said in words, words


def test_models_of_another_kind(refused, tiny_model, tiny_reward, tmp_path_factory):
    steps = build_step_model(tmp_path_factory.mktemp("models") / "steps", tiny_model)
    words = refused(model=steps)
    assert "model.path" in words and "an outcome reward model starts from" in words
    words = refused("loss=step", model=tiny_reward, rows=[STEPS])
    assert "a process reward model starts from" in words
    assert "loss=bradley_terry" in words
    assert "a process reward model is trained on with rlpost reward loss=step" in refused(
        model=steps
    )


@pytest.mark.parametrize("stage", ["sft", "pretrain"])
def test_a_reward_model_is_no_policy(refused, tiny_model, tiny_reward, tmp_path_factory, stage):
    steps = build_step_model(tmp_path_factory.mktemp("models") / "steps", tiny_model)
    rows = [{"messages": CHAT}] if stage == "sft" else [{"text": "a document"}]
    for model in (tiny_reward, steps):
        words = refused(model=model, stage=stage, rows=rows)
        assert "model.path" in words and "a classifier or reward model" in words


def test_a_policy_is_no_reward_model(refused, tiny_model, tiny_reward):
    options = ["data.train=arithmetic", "verifier=exact"]
    words = refused(*options, f"+reward_models.judge.path={tiny_model}", stage="rl")
    assert "reward_models.judge.path" in words and "with rlpost reward" in words
    judge = [f"+reward_models.judge.path={tiny_reward}", "+reward_models.judge.reduce=last"]
    words = refused(*options, *judge, stage="rl")
    assert "reward_models.judge.reduce has no effect" in words
