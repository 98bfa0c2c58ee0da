"""What cannot work ends with exit code 2, the place, the rule and a way out, and leaves nothing."""

import pytest
from supervised_runs import write_rows

from rlpost.cli.main import main

CHAT = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4, as always."},
]
GOOD = {"messages": CHAT}


@pytest.fixture
def refused(tmp_path, tiny_model, monkeypatch, capsys):
    """Run a stage that must be refused; returns what it said, on one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLPOST_CACHE", str(tmp_path.parent / f"{tmp_path.name}-cache"))

    def run(*overrides, rows=(GOOD,), stage="sft", model=tiny_model):
        write_rows(tmp_path / "train.jsonl", rows)
        before = sorted(tmp_path.iterdir())
        words = [stage, f"model.path={model}", "data.workers=0", *overrides]
        if not any("data.sources" in each for each in overrides):
            words.append("data.train=train.jsonl")
        assert main(words) == 2
        assert sorted(tmp_path.iterdir()) == before
        return " ".join(capsys.readouterr().err.split())

    return run


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": CHAT[:1]}, "assistant"),
        ({"messages": [*CHAT, {"role": "user", "content": "And 3?"}]}, "last"),
        ({"prompt": "2 + 2?", "completion": "4"}, "format"),
        ({"text": "no conversation"}, "format"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_by_file_and_line(refused, row, said):
    words = refused(rows=[GOOD, row])
    assert "train.jsonl:2" in words and said in words, words


def test_everything_cut_off(refused):
    words = refused("data.max_tokens=12", "data.on_long=truncate")
    assert "train.jsonl:1" in words and "data.max_tokens" in words


def test_a_row_that_no_micro_batch_holds(refused):
    words = refused("trainer.max_tokens_per_micro_batch=20")
    assert "train.jsonl:1" in words and "raise trainer.max_tokens_per_micro_batch" in words
    words = refused("trainer.max_tokens_per_micro_batch=20", "data.max_tokens=12")
    assert "raise data.max_tokens" in words
    words = refused(rows=[{"messages": [{**CHAT[0], "content": "x" * 600}, CHAT[1]]}])
    assert "use a model with a longer context" in words


def test_weights_that_sum_to_zero(refused):
    words = refused("data.sources.a.path=train.jsonl", "data.sources.a.weight=0")
    assert "weights" in words and "data.sources.a.weight=1" in words


def test_a_sequence_classifier_is_no_policy(refused, tiny_reward):
    words = refused(model=tiny_reward)
    assert "model.path" in words and "ForSequenceClassification" in words


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.steps=3", "trainer.epochs=2"], "both say how long"),
        (["trainer.steps=3", "trainer.warmup_steps=3"], "trainer.warmup_steps must be below"),
        (["trainer.share_prompts=false"], "no effect"),
        (["cluster.offload_idle=true"], "set kl.coefficient"),
        (["cluster.placement=colocated"], "set kl.coefficient"),
        (["cluster.placement=apart", "kl.coefficient=0.1"], "nothing generates"),
        (["tracking.sample_rows=4"], "nothing is learned from samples"),
        (["loss=clip"], "loss must be one of dft, nll"),
        (["rollout.group_size=2"], "rlpost sft --help"),
        (["examples_per_step=0"], "examples_per_step must be"),
        (["neftune_alpha=-1"], "the paper uses"),
        (["kl.coefficient=-1"], "kl.coefficient must be"),
        (["experiment=quickstart"], "experiment=quickstart is for rlpost rl, rft"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(refused, overrides, said):
    assert said in refused(*overrides)


@pytest.mark.parametrize("option", ["checkpoint.best_metric", "early_stopping.metric"])
def test_a_metric_that_no_evaluation_measures(refused, option):
    words = refused(f"{option}=sft/heldout_loss")
    assert option in words and "set data.heldout=FILE" in words
    rows = [{"messages": [{**CHAT[0], "content": f"{n}?"}, CHAT[1]]} for n in range(9)]
    words = refused(f"{option}=sft/held_loss", "data.heldout_fraction=0.5", rows=rows)
    assert option in words and "sft/heldout_loss, sft/heldout_loss/train" in words


def test_an_evaluation_of_nothing(refused):
    assert "no rows are held out" in refused("evaluation.every=7")


def test_a_bound_of_documents_that_have_none(refused):
    words = refused("data.on_long=skip", rows=[{"text": "a document"}], stage="pretrain")
    assert "data.max_tokens" in words and "cluster.placement" not in words
    words = refused("cluster.placement=colocated", rows=[{"text": "one"}], stage="pretrain")
    assert "no effect" in words and "evaluation.suites, which needs one" in words


def test_windows_that_do_not_fit(refused):
    rows = [{"text": "a document"}]
    assert "data.window" in refused("data.window=4096", rows=rows, stage="pretrain")
    words = refused("data.window=600", rows=rows, stage="pretrain")
    assert "data.window must be at most 512" in words


def test_variables_of_a_template_that_nothing_reads(refused):
    variable = "data.chat_template_kwargs.enable_thinking=false"
    assert "chat template does not read it" in refused(variable)
    words = refused(variable, "data.window=64", rows=[{"text": "a"}], stage="pretrain")
    assert "data.chat_template_kwargs has no effect" in words


def test_a_document_without_text(refused):
    rows = [{"text": "a"}, {"text": " "}]
    assert "train.jsonl:2" in refused("data.window=64", rows=rows, stage="pretrain")
