"""Inputs that others' systems failed on: rows that are refused where they stand, and prompts."""

import json
from pathlib import Path

import pytest

from rlpost.data.dataset import DataConfig, PromptDataset
from rlpost.data.encoder import PromptEncoder
from rlpost.data.rows import Row
from rlpost.errors import DataError
from rlpost.models.embedded import materialize
from rlpost.verifiers.kinds.math import MathConfig

CASES = Path(__file__).parent / "cases"
PROMPTS = json.loads((CASES / "prompts.json").read_text())


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(materialize())


def load(path: Path, tokenizer) -> PromptDataset:
    cfg = DataConfig(train=str(path))
    judged = {"columns": {"answer": "verifier=math"}, "refuse": MathConfig().refusal}
    return PromptDataset.load(cfg, tokenizer=tokenizer, **judged)


@pytest.mark.parametrize("path", sorted(CASES.glob("*_line2.jsonl")), ids=lambda path: path.stem)
def test_the_second_line_is_refused_and_the_first_is_good(path, tokenizer, tmp_path):
    with pytest.raises(DataError) as refused:
        load(path, tokenizer)
    assert str(refused.value).startswith(f"{path}:2")
    assert "\n" not in str(refused.value) and str(refused.value).isprintable()
    good = tmp_path / "good.jsonl"
    good.write_text(path.read_text().splitlines()[0] + "\n")
    assert len(load(good, tokenizer)) == 1


def test_tools_that_the_template_leaves_out_are_refused(tokenizer):
    with pytest.raises(DataError, match=r"tools_column\.jsonl:1.*tools"):
        load(CASES / "tools_column.jsonl", tokenizer)


@pytest.mark.parametrize("vector", PROMPTS["vectors"], ids=lambda vector: vector["name"])
def test_a_prompt_has_the_tokens_of_the_template(vector, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", PROMPTS["templates"][vector["template"]])
    row = Row(columns={"prompt": vector["messages"]}, address="x:1")
    prompt = PromptEncoder(tokenizer).encode(row, uid="0:0")
    assert list(prompt.token_ids) == vector["prompt_ids"]
