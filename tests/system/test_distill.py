"""`rlpost distill` from files to an exported model: against plain torch, stored, and resumed."""

import os
import signal

import pytest
import torch
from cli_runs import finish, metrics
from plain_distill import mean_divergence, plain_curves
from plain_sft import Settings, conversations, labelled
from supervised_runs import (
    assert_same,
    completed,
    cut_back,
    measured,
    start,
    went_on,
    write_rows,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlpost.cli.main import main
from rlpost.config.compose import compose_stage
from rlpost.models.origin import export_record
from rlpost.models.tiny import build_tiny_llama
from rlpost.stages.distill.modes import prepare
from rlpost.stages.run_directory import RunDirectory

pytestmark = pytest.mark.timeout(900)
STEPS, EXAMPLES, WARMUP, BETA = 6, 4, 2, 0.5
MEASURED = ("step", "distill/loss", "distill/grad_norm", "distill/agreement",
            "distill/heldout_loss", "training/epoch")  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Rows to learn and rows held out, and a teacher whose vocabulary is padded further."""
    place = tmp_path_factory.mktemp("distill")
    rows = [{"messages": each} for each in conversations(STEPS * EXAMPLES + 4)]
    write_rows(place / "train.jsonl", rows[:-4])
    write_rows(place / "heldout.jsonl", rows[-4:])
    build_tiny_llama(place / "teacher", layers=3, vocabulary=384, seed=7)
    return place


def run(place, model, name, *teacher):
    return start(
        place,
        "distill",
        model,
        name,
        *(teacher or ("teacher.path=teacher",)),
        f"distill.beta={BETA}",
        "data.train=train.jsonl",
        "data.heldout=heldout.jsonl",
        "data.shuffle=false",
        f"trainer.steps={STEPS}",
        f"trainer.warmup_steps={WARMUP}",
        f"examples_per_step={EXAMPLES}",
        "trainer.max_tokens_per_micro_batch=512",
        "evaluation.every=3",
        "checkpoint.every=2",
        "checkpoint.keep=2",
    )


@pytest.fixture(scope="module")
def whole(place, tiny_untied_model):
    """A run that nothing disturbed."""
    completed(run(place, tiny_untied_model, "whole"))
    return place / "runs" / "whole"


def test_it_learns_what_a_plain_loop_learns(place, whole, tiny_untied_model):
    rows = conversations(STEPS * EXAMPLES + 4)
    steps = [rows[start : start + EXAMPLES] for start in range(0, STEPS * EXAMPLES, EXAMPLES)]
    plain = plain_curves(
        tiny_untied_model,
        place / "teacher",
        steps,
        Settings(steps=STEPS, warmup_steps=WARMUP),
        beta=BETA,
    )
    found = [row for row in measured(whole, MEASURED) if "distill/loss" in row]
    for name, theirs in (("distill/loss", plain.loss), ("distill/grad_norm", plain.grad_norm)):
        assert [row[name] for row in found] == pytest.approx(theirs, rel=1e-3)
    tokenizer = AutoTokenizer.from_pretrained(tiny_untied_model)
    heldout = [labelled(tokenizer, each, "assistant") for each in rows[-4:]]
    losses = [row["distill/heldout_loss"] for row in metrics(whole) if row["step"] in (0, STEPS)]
    paths = (tiny_untied_model, whole / "export", place / "teacher")
    before, exported, teacher = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in paths
    )
    with torch.no_grad():
        for model, loss in ((before, losses[0]), (exported, losses[-1])):
            theirs = mean_divergence(model, teacher, heldout, beta=BETA, temperature=1.0).item()
            assert loss == pytest.approx(theirs, rel=1e-5)
    assert losses[-1] < losses[0]
    assert export_record(whole / "export")["stage"] == "distill"
    said = (whole / "run.log").read_text()
    assert "renormalised over the 259 tokens that exist" in said


def test_a_resumed_run_goes_on_to_the_same_numbers(place, whole, tiny_untied_model):
    cut = cut_back(whole, "cut", to=4)
    completed(run(place, tiny_untied_model, "cut"))
    assert went_on(cut, after=4)
    assert_same(cut, whole, MEASURED, ended_after=4)


def test_a_stored_teacher_teaches_what_a_live_one_does(
    place, whole, tiny_untied_model, monkeypatch, capsys
):
    every = 259  # tokens of the vocabulary, so the store lacks nothing
    words = ("teacher.path=teacher", "teacher.store=stored", f"teacher.top_k={every}")
    process = run(place, tiny_untied_model, "stored", *words)
    half = ".stored.*.writing"  # of this writer alone
    while not any(place.glob(half)):
        assert process.poll() is None, finish(process)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    assert not (place / "stored").exists()
    completed(run(place, tiny_untied_model, "stored", *words))
    assert not any(place.glob(half))
    runs = (measured(run, MEASURED) for run in (place / "runs" / "stored", whole))
    for ours, live in zip(*runs, strict=True):
        assert ours == pytest.approx(live, rel=1e-3), (ours, live)
    # The same rows without the teacher, and what a store cannot teach.
    monkeypatch.chdir(place)
    given = [f"model.path={tiny_untied_model}", "teacher.store=stored", "data.workers=0"]
    cfg, _ = compose_stage([*given, "data.train=train.jsonl"], stage="distill")
    plan = prepare(cfg, directory=RunDirectory(root=place / "unused"))
    assert plan.teacher is None and plan.stored.store.identity.top_k == every
    write_rows(place / "more.jsonl", [{"prompt": "Of another file?", "completion": "Yes."}])
    assert main(["distill", *given, "data.train=more.jsonl"]) == 2
    assert "has nothing of more.jsonl:1" in " ".join(capsys.readouterr().err.split())
