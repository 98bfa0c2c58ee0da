"""`rlpost sft` from files to an exported model: against plain torch, stopped, and ended early."""

import json
import signal

import pytest
import torch
from cli_runs import finish, metrics, wait_for_step
from plain_sft import (
    IGNORED,
    Settings,
    conversations,
    labelled,
    mean_loss,
    plain_curves,
    written,
)
from safetensors.torch import load_file
from supervised_runs import assert_same, completed, left_of, measured, signalled, start, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.splits import load_splits
from rlpost.data.supervised import SourceConfig, SupervisedDataConfig
from rlpost.models.origin import export_record

pytestmark = pytest.mark.timeout(900)
STEPS, EXAMPLES, WARMUP = 6, 5, 2
SOURCES = {"chat": 3, "replay": 2}  # and their weights
MEASURED = (
    "step",
    "sft/loss",
    "sft/grad_norm",
    "sft/lr",
    "sft/token_accuracy",
    "sft/heldout_loss/heldout",
    "training/epoch",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two sources, of which one is drawn several times, and held-out rows."""
    place = tmp_path_factory.mktemp("sft")
    rows = [{"messages": each} for each in conversations(26)]
    write_rows(place / "chat.jsonl", rows[:16])
    write_rows(place / "replay.jsonl", rows[16:20])
    write_rows(place / "heldout.jsonl", rows[20:])
    return place


def run(place, model, name, *overrides):
    sources = [
        override
        for source, weight in SOURCES.items()
        for override in (
            f"data.sources.{source}.path={source}.jsonl",
            f"data.sources.{source}.weight={weight}",
        )
    ]
    return start(
        place,
        "sft",
        model,
        name,
        *sources,
        "data.heldout=heldout.jsonl",
        f"trainer.steps={STEPS}",
        f"trainer.warmup_steps={WARMUP}",
        f"examples_per_step={EXAMPLES}",
        "trainer.max_tokens_per_micro_batch=512",
        "evaluation.every=3",
        "checkpoint.every=2",
        *overrides,
    )


@pytest.fixture(scope="module")
def whole(place, tiny_untied_model):
    """A run that nothing disturbed."""
    completed(run(place, tiny_untied_model, "whole"))
    return place / "runs" / "whole"


def rows_of(path):
    return [json.loads(line)["messages"] for line in path.read_text().splitlines()]


def drawn(place, tokenizer):
    """The conversations of each step; their order is the mixture's own."""
    cfg = SupervisedDataConfig(
        sources={
            name: SourceConfig(path=str(place / f"{name}.jsonl"), weight=weight)
            for name, weight in SOURCES.items()
        },
        workers=0,
    )
    mixture = load_splits(cfg, encoder=ConversationEncoder(tokenizer), seed=0).train
    rows = {name: rows_of(place / f"{name}.jsonl") for name in SOURCES}
    steps = []
    for _ in range(STEPS):
        uids = [each.uid.split(":") for each in mixture.take(EXAMPLES)]
        steps.append([rows[name][int(row)] for name, _, row in uids])
    return steps


def test_it_learns_what_a_plain_loop_learns(place, whole, tiny_untied_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_untied_model)
    settings = Settings(steps=STEPS, warmup_steps=WARMUP)
    plain = plain_curves(tiny_untied_model, drawn(place, tokenizer), settings)
    steps = [row for row in measured(whole, MEASURED) if "sft/loss" in row]
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    for name, theirs in (("sft/loss", plain.loss), ("sft/grad_norm", plain.grad_norm)):
        ours = [row[name] for row in steps]
        assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
        assert ours == pytest.approx(theirs, rel=1e-3)
    heldout = [labelled(tokenizer, each, "assistant") for each in rows_of(place / "heldout.jsonl")]
    losses = {
        row["step"]: row["sft/heldout_loss/heldout"]
        for row in metrics(whole)
        if "sft/heldout_loss/heldout" in row
    }
    assert sorted(losses) == [0, 3, 6]
    before = AutoModelForCausalLM.from_pretrained(tiny_untied_model, dtype=torch.float32)
    exported = AutoModelForCausalLM.from_pretrained(whole / "export", dtype=torch.float32)
    with torch.no_grad():
        assert losses[0] == pytest.approx(mean_loss(before, heldout).item(), rel=1e-5)
        assert losses[6] == pytest.approx(mean_loss(plain.model, heldout).item(), rel=1e-3)
        assert losses[6] == pytest.approx(mean_loss(exported, heldout).item(), rel=1e-5)
    assert losses[6] < losses[0]


def test_a_run_that_is_stopped_goes_on_to_the_same_numbers(place, whole, tiny_untied_model):
    """Between two of its checkpoints; a killed one is in test_reward.py."""
    cut = place / "runs" / "cut"
    process = run(place, tiny_untied_model, "cut")
    wait_for_step(cut, 1, process)
    output, started = signalled(process, signal.SIGTERM)
    assert process.returncode == 130, output
    done = metrics(cut)[-1]["step"]
    assert f"saved as runs/cut/checkpoints/step_{done:06d}" in " ".join(output.split()), output
    completed(run(place, tiny_untied_model, "cut"))
    assert_same(cut, whole, MEASURED, ended_after=done)
    assert left_of(started) == []


@pytest.fixture(scope="module")
def early(place, tiny_untied_model):
    """A run whose learning rate rises until it destroys what the first step learned."""
    overrides = (
        "trainer.lr=0.1",
        "trainer.warmup_steps=4",
        "evaluation.every=1",
        "early_stopping.metric=sft/heldout_loss",
        "early_stopping.patience=2",
        "checkpoint.best_metric=sft/heldout_loss",
        "export.which=best",
    )
    process = run(place, tiny_untied_model, "early", *overrides)
    output = finish(process)
    assert process.returncode == 0, output
    assert "stopped early: sft/heldout_loss was not better" in output
    again = run(place, tiny_untied_model, "early", *overrides)
    output = finish(again)
    assert again.returncode == 0 and "raise early_stopping.patience" in output, output
    return place / "runs" / "early"


def masters(checkpoint):
    """The weights that a checkpoint of one rank holds, by their names in the model."""
    state = load_file(checkpoint / "trainer" / "state_000_000.safetensors")
    return {
        name.removeprefix("model.").removesuffix(".master"): weight
        for name, weight in state.items()
        if name.endswith(".master")
    }


def same(left, right):
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


def test_the_best_weights_are_exported_and_not_the_last(place, early):
    losses = {
        row["step"]: row["sft/heldout_loss"] for row in metrics(early) if "sft/heldout_loss" in row
    }
    best = min(set(losses) - {0}, key=losses.__getitem__)
    last = max(losses)
    assert last == best + 2 < STEPS
    named = {
        name: (early / "checkpoints" / name).read_text().strip() for name in ("best", "latest")
    }
    assert named == {"best": f"step_{best:06d}", "latest": f"step_{last:06d}"}
    exported = load_file(early / "export" / "model.safetensors")
    assert same(exported, masters(early / "checkpoints" / named["best"]))
    assert not same(exported, masters(early / "checkpoints" / named["latest"]))
    model = AutoModelForCausalLM.from_pretrained(early / "export", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(early / "export")
    heldout = [labelled(tokenizer, each, "assistant") for each in rows_of(place / "heldout.jsonl")]
    with torch.no_grad():
        assert mean_loss(model, heldout).item() == pytest.approx(losses[best], rel=1e-5)
    record = export_record(early / "export")
    assert (record["step"], record["run_step"], record["which"]) == (best, last, "best")
    assert record["results"]["sft/heldout_loss"] == losses[best]
    card = (early / "export" / "README.md").read_text()
    assert f"held-out loss {losses[0]:.3f} at step 0, {losses[best]:.3f} at step {best}" in card


def test_the_records_of_an_early_end_are_of_every_step_and_row(place, early, tiny_untied_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_untied_model)
    last = max(row["step"] for row in metrics(early))
    rows = [row for step in drawn(place, tokenizer)[:last] for row in step]
    trained = [sum(t != IGNORED for t in labelled(tokenizer, row, "assistant")[1]) for row in rows]
    spent = json.loads((early / "cost.json").read_text())["spent"]
    assert spent["tokens/trained"] == sum(trained)
    assert spent["wall_s"] > 0
    examples = [json.loads(line) for line in (early / "examples.jsonl").read_text().splitlines()]
    assert {each["source"] for each in examples} == set(SOURCES)
    for example in examples:
        file, number = example["address"].rsplit(":", 1)
        text, answers = written(rows_of(place / file)[int(number) - 1])
        assert text.startswith("".join(run for run, _ in example["runs"]))
        marked = [run for run, is_trained in example["runs"] if is_trained]
        assert marked == [text[first:last] for first, last in answers]
