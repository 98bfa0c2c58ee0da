"""`rlpost pretrain` from files to an exported model, against windows cut by hand."""

import math

import pytest
import torch
from cli_runs import finish, metrics
from supervised_runs import start, write_rows
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlpost.data.conversation.text import DocumentEncoder
from rlpost.data.splits import load_splits
from rlpost.data.supervised import SourceConfig, SupervisedDataConfig

pytestmark = pytest.mark.timeout(900)
WINDOW, DOCUMENTS, STEPS = 64, 4, 3
WEIGHTS = {"law": 3, "general": 1}  # of each step's documents
TEXTS = {
    "law": [f"Article {n} of the law says " + "so and " * (n * 7 % 23) + "so." for n in range(12)],
    "general": [f"Once upon a time there were {n} frogs. " * (1 + n % 3) for n in range(5)],
}


@torch.no_grad()
def plain_loss(model, tokenizer, texts):
    """Return the mean over every token but the first, each seen from its window alone."""
    stream = []
    for text in texts:
        stream += [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    total = 0.0
    for start_at in range(0, len(stream) - 1, WINDOW - 1):
        ids_1T = torch.tensor([stream[start_at : start_at + WINDOW]])
        logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0, :-1]
        total += cross_entropy(logits_TV, ids_1T[0, 1:], reduction="sum").item()
    return total / (len(stream) - 1)


def parts(place, tokenizer):
    """The documents of the first step, in their order, and the held-out ones of each source."""
    cfg = SupervisedDataConfig(
        sources={
            name: SourceConfig(path=str(place / f"{name}.jsonl"), weight=weight)
            for name, weight in WEIGHTS.items()
        },
        heldout_fraction=0.4,
        shuffle=False,
        workers=0,
    )
    splits = load_splits(cfg, encoder=DocumentEncoder(tokenizer), seed=0)

    def text(example):
        name, _, line = example.address.rpartition("/")[2].partition(".jsonl:")
        return TEXTS[name][int(line) - 1]

    held = {
        name: [text(corpus.examples(row)[0]) for row in range(len(corpus))]
        for name, corpus in splits.heldout.items()
    }
    return [text(each) for each in splits.train.take(DOCUMENTS)], held


def test_perplexities_of_the_domain_and_of_general_text(tmp_path, tiny_untied_model):
    for name, texts in TEXTS.items():
        write_rows(tmp_path / f"{name}.jsonl", [{"text": text} for text in texts])
    process = start(
        tmp_path,
        "pretrain",
        tiny_untied_model,
        "mixed",
        *(f"data.sources.{name}.path={name}.jsonl" for name in WEIGHTS),
        *(f"data.sources.{name}.weight={weight}" for name, weight in WEIGHTS.items()),
        "data.heldout_fraction=0.4",
        "data.shuffle=false",
        f"data.window={WINDOW}",
        "trainer.max_tokens_per_micro_batch=200",
        f"trainer.steps={STEPS}",
        f"examples_per_step={DOCUMENTS}",
    )
    output = finish(process)
    assert process.returncode == 0, output
    run = tmp_path / "runs" / "mixed"
    rows = metrics(run)
    tokenizer = AutoTokenizer.from_pretrained(tiny_untied_model)
    first, held = parts(tmp_path, tokenizer)
    before, after = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        for path in (tiny_untied_model, run / "export")
    )
    (loss,) = [row["pretrain/loss"] for row in rows if row["step"] == 1]
    assert loss == pytest.approx(plain_loss(before, tokenizer, first), rel=1e-5)
    shown = {row["step"]: row for row in rows if "pretrain/heldout_loss" in row}
    assert sorted(shown) == [0, STEPS] and set(held) == set(WEIGHTS)
    for name, texts in held.items():
        for step, model in ((0, before), (STEPS, after)):
            theirs = plain_loss(model, tokenizer, texts)
            assert shown[step][f"pretrain/heldout_loss/{name}"] == pytest.approx(theirs, rel=1e-5)
            perplexity = shown[step][f"pretrain/heldout_perplexity/{name}"]
            assert perplexity == pytest.approx(math.exp(theirs), rel=1e-4)
    assert shown[STEPS]["pretrain/heldout_loss/law"] < shown[0]["pretrain/heldout_loss/law"]
