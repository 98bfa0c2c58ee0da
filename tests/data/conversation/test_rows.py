"""From rows in a file to masks: what a data set holds is what the encoder trains."""

import json
from pathlib import Path
from typing import Any

import pytest
from chat_families import CONVERSATION
from chat_templates import TOOLS_IN_SYSTEM
from transformers import PreTrainedTokenizerFast

from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.conversation.text import DocumentEncoder
from rlpost.data.corpus.corpus import Corpus, OnLong
from rlpost.data.dataset import OnBadRow
from rlpost.data.splits import load_splits
from rlpost.data.supervised import SupervisedDataConfig
from rlpost.errors import DataError

USER, ANSWER, AGAIN, LAST = CONVERSATION
CALL = {"function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLPOST_CACHE", str(tmp_path / "cache"))


def load(path: Path, rows: list[Any], encoder: Any, **options: Any) -> Corpus:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = SupervisedDataConfig(train=str(path), workers=0, shuffle=False, **options)
    splits = load_splits(cfg, encoder=encoder, seed=0, max_tokens=200)
    (corpus,) = splits.train.corpora.values()
    return corpus


def learned(tokenizer: Any, corpus: Corpus) -> list[list[str]]:
    return [
        [tokenizer.decode(each.ids[each.trained]) for each in corpus.examples(row)]
        for row in range(len(corpus))
    ]


def test_every_format_of_a_conversation(tmp_path: Path, chat: PreTrainedTokenizerFast) -> None:
    chat.chat_template = TOOLS_IN_SYSTEM
    rows: dict[str, list[Any]] = {
        "messages": [
            {"messages": [USER, {**ANSWER, "weight": 0}, AGAIN, LAST]},
            {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}],
             "tools": [TOOL]},
        ],
        "completion": [{"prompt": [USER], "completion": [ANSWER]}],
        "sharegpt": [
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}
        ],
        "alpaca": [{"instruction": "Add.", "input": "2, 2", "output": "4"}],
    }  # fmt: skip
    found = {
        name: learned(chat, load(tmp_path / f"{name}.jsonl", some, ConversationEncoder(chat)))
        for name, some in rows.items()
    }
    assert found == {
        "messages": [
            ["6, I think.<|im_end|>"],
            ['<call>weather {"city": "Ulm"}</call><|im_end|>'],
        ],
        "completion": [["It is 4.<|im_end|>"]],
        "sharegpt": [["Ho<|im_end|>"]],
        "alpaca": [["4<|im_end|>"]],
    }


def test_rows_without_a_right_mask_are_skipped_and_listed(
    tmp_path: Path, chat: PreTrainedTokenizerFast
) -> None:
    rows = [
        {"messages": [USER, ANSWER]},
        {"messages": [USER, {**ANSWER, "content": "4<|im_end|>"}]},
        {"messages": [USER, {**ANSWER, "reasoning_content": "Hm"}]},
    ]
    path, encoder = tmp_path / "t.jsonl", ConversationEncoder(chat)
    with pytest.raises(DataError, match=rf"^{path}:2: message 1: its content contains '<\|im_end"):
        load(path, rows, encoder)
    corpus = load(path, rows, encoder, on_bad_row=OnBadRow.skip)
    assert learned(chat, corpus) == [["It is 4.<|im_end|>"]]
    assert len(corpus.skipped) == 2
    for line, reason in zip((2, 3), corpus.skipped, strict=True):
        assert reason.startswith(f"{path}:{line}: message 1: ")


def test_a_truncated_row_keeps_whole_answers(tmp_path: Path, chat: PreTrainedTokenizerFast) -> None:
    encoder = ConversationEncoder(chat, truncate_to=80)
    rows = [{"messages": list(CONVERSATION)}]
    corpus = load(tmp_path / "t.jsonl", rows, encoder, on_long=OnLong.truncate, max_tokens=80)
    assert learned(chat, corpus) == [["It is 4.<|im_end|>"]]
    assert corpus.examples(0)[0].ids[-1] == chat.eos_token_id


def test_documents(tmp_path: Path, base: PreTrainedTokenizerFast) -> None:
    corpus = load(tmp_path / "t.jsonl", [{"text": "Once upon"}], DocumentEncoder(base))
    assert learned(base, corpus) == [["nce upon<|im_end|>"]]
