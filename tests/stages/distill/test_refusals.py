"""What cannot work ends with exit code 2, the place, the rule and a way out, and leaves nothing."""

import json
import shutil

import pytest
from supervised_runs import write_rows

from rlpost.cli.main import main
from rlpost.models.tiny import build_tiny_llama

ROW = {"prompt": "What is 2 + 2?", "completion": "4, as always."}


@pytest.fixture
def refused(tmp_path, tiny_model, monkeypatch, capsys):
    """Run the stage, which must be refused; returns what it said, on one line."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("RLPOST_CACHE", str(tmp_path / "cache"))

    def run(*overrides, teacher=tiny_model, rows=(ROW,)):
        write_rows(place / "train.jsonl", rows)
        before = sorted(place.iterdir())
        words = ["distill", f"model.path={tiny_model}", "data.workers=0", "data.train=train.jsonl"]
        words += [] if teacher is None else [f"teacher.path={teacher}"]
        assert main([*words, *overrides]) == 2
        assert sorted(place.iterdir()) == before
        return " ".join(capsys.readouterr().err.split())

    return run


def test_a_teacher_must_be_named(refused):
    assert "teacher.path=runs/NAME/export" in refused(teacher=None)
    assert "teacher.path" in refused(teacher="no/such/model")


def test_a_teacher_with_another_tokenizer(refused, tmp_path, tiny_model):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    tokens = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokens))
    said = refused(teacher=other)
    assert "teacher.path" in said and "must have the tokenizer of the policy" in said
    assert "use a model of the same family" in said


def test_a_teacher_of_another_kind(refused, tiny_reward):
    said = refused(teacher=tiny_reward)
    assert "teacher.path" in said and "causal" in said, said


def test_a_teacher_without_a_tokenizer(refused, tmp_path, tiny_model):
    bare = shutil.copytree(tiny_model, tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    assert "teacher.path" in (said := refused(teacher=bare)) and "no tokenizer" in said


def test_a_row_that_the_teacher_cannot_read(refused, tmp_path):
    short = build_tiny_llama(tmp_path / "short", max_positions=32)
    said = refused(teacher=short)
    assert "reads at most 32 tokens" in said and "data.on_long=skip" in said


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["distill.beta=1.5"], "0 is the forward KL, 1 the reverse KL"),
        (["distill.beta=nan"], "distill.beta"),
        (["distill.temperature=0"], "distill.temperature"),
        (["loss=nll"], "loss"),
        (["cluster.offload_idle=true"], "cluster.offload_idle=true has no effect"),
        (["trainer.share_prompts=false"], "trainer.share_prompts=false has no effect"),
        (["evaluation.every=3"], "no rows are held out"),
    ],
)
def test_options_that_cannot_work(refused, overrides, said):
    assert said in refused(*overrides)
