"""`rlpost sft` from files to an exported model: against plain torch, and killed at any moment."""

import json
import os
import random
import signal

import pytest
import torch
from cli_runs import finish, metrics, wait_for_step
from plain_sft import Settings, conversations, labelled, mean_loss, plain_curves
from supervised_runs import start, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.splits import load_splits
from rlpost.data.supervised import SourceConfig, SupervisedDataConfig

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


def run(place, model, name):
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
    )


def measured(run_dir):
    return [{key: row[key] for key in MEASURED if key in row} for row in metrics(run_dir)]


@pytest.fixture(scope="module")
def whole(place, tiny_untied_model):
    """A run that nothing disturbed."""
    process = run(place, tiny_untied_model, "whole")
    output = finish(process)
    assert process.returncode == 0, output
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
    steps = [row for row in measured(whole) if "sft/loss" in row]
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


def test_a_killed_run_goes_on_to_the_same_numbers(place, whole, tiny_untied_model):
    process = run(place, tiny_untied_model, "killed")
    cut = place / "runs" / "killed"
    moment = random.SystemRandom().randrange(1, STEPS)
    wait_for_step(cut, moment, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = run(place, tiny_untied_model, "killed")
    output = finish(again)
    assert again.returncode == 0, output
    assert measured(cut) == measured(whole), f"killed after step {moment}"
    weights = "model.safetensors"
    assert (cut / "export" / weights).read_bytes() == (whole / "export" / weights).read_bytes()
