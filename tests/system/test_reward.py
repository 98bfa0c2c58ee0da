"""`rlpost reward` from files to models that transformers and `rlpost rl` read, also if killed."""

import json
import math
import signal

import pytest
import torch
from cli_runs import metrics, wait_for_step
from plain_reward import (
    END,
    asked,
    pair_loss,
    pair_rows,
    pair_scores,
    step_logits,
    step_loss,
    step_rows,
)
from supervised_runs import assert_same, completed, left_of, signalled, start, write_rows
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from rlpost.training.reward.reader import RewardSample
from rlpost.training.reward.scorer import RewardScorer
from rlpost.training.reward.settings import RewardModelConfig, StepReduction

pytestmark = pytest.mark.timeout(900)
STEPS = 5
MEASURED = ("step", "reward/loss", "reward/grad_norm", "reward/heldout_loss", "training/epoch")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("reward")
    write_rows(place / "pairs.jsonl", pair_rows(9))
    write_rows(place / "heldout.jsonl", pair_rows(12, start=20))
    write_rows(place / "steps.jsonl", step_rows(9))
    write_rows(place / "heldout_steps.jsonl", step_rows(6, start=20))
    return place


def run(place, model, name, *overrides):
    return start(
        place,
        "reward",
        model,
        name,
        f"trainer.steps={STEPS}",
        "examples_per_step=4",
        "trainer.max_tokens_per_micro_batch=300",
        "evaluation.every=2",
        "checkpoint.every=2",
        *overrides,
    )


PAIRS = (
    "data.train=pairs.jsonl",
    "data.heldout=heldout.jsonl",
    "loss.margin_column=margin",
    "loss.centre=0.05",
)


@pytest.fixture(scope="module")
def whole(place, tiny_model):
    """A reward model of pairs, from a run that nothing disturbed."""
    completed(
        run(place, tiny_model, "whole", *PAIRS, "checkpoint.best_metric=reward/heldout_accuracy")
    )
    return place / "runs" / "whole"


@pytest.fixture(scope="module")
def steps(place, tiny_model):
    """A process reward model."""
    data = ("loss=step", "data.train=steps.jsonl", "data.heldout=heldout_steps.jsonl")
    completed(run(place, tiny_model, "steps", *data))
    return place / "runs" / "steps"


def last(run_dir, name):
    return [row[name] for row in metrics(run_dir) if name in row][-1]


def test_transformers_finds_in_the_export_what_the_run_measured(whole, tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(whole / "export")
    export = AutoModelForSequenceClassification.from_pretrained(whole / "export").eval()
    rows = pair_rows(12, start=20)
    with torch.no_grad():
        loss = pair_loss(export, tokenizer, rows, centre=0.0, margins=False).item()
        chosen, rejected = pair_scores(export, tokenizer, rows)
    assert last(whole, "reward/heldout_loss") == pytest.approx(loss, rel=1e-5)
    accuracy = (chosen > rejected).float().mean().item()
    assert last(whole, "reward/heldout_accuracy") == pytest.approx(accuracy)
    assert last(whole, "reward/heldout_margin") == pytest.approx(
        (chosen - rejected).mean().item(), rel=1e-4
    )
    first = metrics(whole)[0]
    assert first["reward/heldout_loss"] == pytest.approx(0.693147, abs=1e-6)
    assert first["reward/heldout_accuracy"] == 0.5  # a head of zeros: every pair is a tie
    report = (whole / "report.html").read_text()
    assert "Accuracy by confidence" in report and "Score and length" in report


def test_transformers_finds_the_steps_judgements(steps):
    tokenizer = AutoTokenizer.from_pretrained(steps / "export")
    export = AutoModelForTokenClassification.from_pretrained(steps / "export").eval()
    with torch.no_grad():
        loss = step_loss(export, tokenizer, step_rows(6, start=20)).item()
    assert last(steps, "reward/heldout_loss") == pytest.approx(loss, rel=1e-5)
    assert last(steps, "reward/loss") < 0.7
    card = (steps / "export" / "README.md").read_text()
    assert "AutoModelForTokenClassification" in card and "token-classification" in card


def test_a_killed_run_goes_on_to_the_same_numbers(place, whole, tiny_model):
    options = (*PAIRS, "checkpoint.best_metric=reward/heldout_accuracy")
    process = run(place, tiny_model, "killed", *options)
    cut = place / "runs" / "killed"
    wait_for_step(cut, 3, process)  # beyond its checkpoint
    _, started = signalled(process, signal.SIGKILL)
    completed(run(place, tiny_model, "killed", *options))
    assert_same(cut, whole, MEASURED, ended_after=3)
    assert left_of(started) == []


def judged(export, rows, texts, policy, **options):
    """The rewards that `rlpost rl` has a model give to what ``policy`` would have written."""
    cfg = RewardModelConfig(path=str(export), threads=1, **options)
    scorer = RewardScorer(cfg, model_path=str(export), policy_path=str(policy))
    tokenizer = AutoTokenizer.from_pretrained(policy)
    samples = []
    for row, text in zip(rows, texts, strict=True):
        prompt, response = (
            tokenizer(part)["input_ids"] for part in (asked(row["prompt"]), text + END)
        )
        sample = RewardSample(
            token_ids=(*prompt, *response),
            num_prompt_tokens=len(prompt),
            conversation=({"role": "user", "content": row["prompt"]},),
            plain_prompt=row["prompt"],
            text=text,
        )
        samples.append(sample)
    return [verdict.reward for verdict in scorer.judge(samples)]


def test_reinforcement_learning_reads_both_as_transformers_does(whole, steps, tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(whole / "export")
    rows, solutions = pair_rows(12, start=20), step_rows(6, start=20)
    answers = AutoModelForSequenceClassification.from_pretrained(whole / "export").eval()
    judge = AutoModelForTokenClassification.from_pretrained(steps / "export").eval()
    with torch.no_grad():
        expected = pair_scores(answers, tokenizer, rows)[0].tolist()
        right = step_logits(judge, tokenizer, solutions)[0].softmax(-1)[:, 1].tolist()
    found = judged(whole / "export", rows, [row["chosen"] for row in rows], tiny_model)
    assert found == pytest.approx(expected, abs=1e-5)
    assert len(set(found)) == len(found)  # negative control: they differ
    texts = ["\n".join(row["completions"]) for row in solutions]
    found = judged(steps / "export", solutions, texts, tiny_model, reduce=StepReduction.product)
    rest = iter(right)
    products = [math.prod(next(rest) for _ in row["labels"]) for row in solutions]
    assert found == pytest.approx(products, abs=1e-5)
    assert json.loads((whole / "export" / "rlpost.json").read_text())["stage"] == "reward"
