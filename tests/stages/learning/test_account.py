"""What the cost and the card say of the data, on real corpora."""

import numpy as np
import pytest
from plain_sft import conversations
from supervised_runs import write_rows
from transformers import AutoTokenizer

from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.splits import load_splits
from rlpost.data.supervised import SourceConfig, SupervisedDataConfig
from rlpost.stages.learning.account import data_used, trained_tokens_by_source


@pytest.fixture
def config(tmp_path):
    rows = [{"messages": each} for each in conversations(12)]
    for name, some in (("chat", rows[:6]), ("code", rows[6:10]), ("held", rows[10:])):
        write_rows(tmp_path / f"{name}.jsonl", some)
    return SupervisedDataConfig(
        sources={
            name: SourceConfig(path=str(tmp_path / f"{name}.jsonl"), weight=weight)
            for name, weight in (("chat", 3), ("code", 1))
        },
        heldout=str(tmp_path / "held.jsonl"),
        workers=0,
    )


def load(config, model):
    encoder = ConversationEncoder(AutoTokenizer.from_pretrained(model))
    return load_splits(config, encoder=encoder, seed=0)


def test_trained_tokens_of_a_draw_are_those_of_its_sources(config, tiny_model):
    drawn = load(config, tiny_model).train.take(8)
    counts = trained_tokens_by_source(drawn)
    assert counts.keys() == {f"perf/trained_tokens/{name}" for name in ("chat", "code")}
    assert sum(counts.values()) == sum(np.count_nonzero(each.trained) for each in drawn)
    chat = [each for each in drawn if each.uid.startswith("chat:")]
    assert len(chat) == 6  # three of four
    trained = sum(np.count_nonzero(each.trained) for each in chat)
    assert counts["perf/trained_tokens/chat"] == trained


def test_every_source_is_listed_with_a_hash_of_its_content(config, tiny_model, tmp_path):
    used = data_used(config, load(config, tiny_model))
    assert [(each.split, each.name, each.num_rows, each.hub_id) for each in used] == [
        ("train", "chat", 6, None),
        ("train", "code", 4, None),
        ("heldout", "held", 2, None),
    ]
    assert used[0].source == str(tmp_path / "chat.jsonl")
    again = data_used(config, load(config, tiny_model))
    assert [each.fingerprint for each in again] == [each.fingerprint for each in used]
    write_rows(tmp_path / "held.jsonl", [{"messages": each} for each in conversations(14)[12:]])
    changed = data_used(config, load(config, tiny_model))
    same = [a.fingerprint == b.fingerprint for a, b in zip(changed, used, strict=True)]
    assert same == [True, True, False]
