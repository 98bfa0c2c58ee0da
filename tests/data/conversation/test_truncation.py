"""Examples that are too long end with the last whole answer that fits."""

import pytest
from chat_families import CONVERSATION, REASONED, tokenizer_of
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.records import Conversation
from rlpost.errors import DataError
from rlpost.models.tiny import byte_tokenizer

ROW = Conversation(messages=CONVERSATION, address="t.jsonl:7")


def test_the_bound_is_exact(chat: PreTrainedTokenizerFast) -> None:
    (whole,) = ConversationEncoder(chat).encode(ROW)
    size = len(whole)
    (same,) = ConversationEncoder(chat, truncate_to=size).encode(ROW)
    (shorter,) = ConversationEncoder(chat, truncate_to=size - 1).encode(ROW)
    assert len(same) == size > len(shorter)


@given(st.integers(min_value=1, max_value=130))
def test_what_is_left_ends_with_the_end_of_an_answer(limit: int) -> None:
    tokenizer = byte_tokenizer()
    (whole,) = ConversationEncoder(tokenizer).encode(ROW)
    (first,) = ConversationEncoder(tokenizer).encode(
        Conversation(messages=CONVERSATION[:2], address="t.jsonl:7")
    )
    encoder = ConversationEncoder(tokenizer, truncate_to=limit)
    if limit < len(first):
        with pytest.raises(DataError, match="not even its first trained answer fits"):
            encoder.encode(ROW)
        return
    (cut,) = encoder.encode(ROW)
    assert len(cut) == (len(whole) if limit >= len(whole) else len(first))
    assert cut.ids.tolist() == whole.ids[: len(cut)].tolist()
    assert cut.trained.tolist() == whole.trained[: len(cut)].tolist()
    assert cut.ids[-1] == tokenizer.eos_token_id and cut.trained[-1]


def test_every_token_is_cut_after_a_turn(chat: PreTrainedTokenizerFast) -> None:
    (cut,) = ConversationEncoder(chat, train_on="all", truncate_to=70).encode(ROW)
    assert chat.decode(cut.ids).endswith("And 3 + 3?<|im_end|>")
    assert cut.trained[1:].all()


def test_of_several_examples_those_that_fit_are_kept() -> None:
    name = "Qwen3"
    tokenizer, row = tokenizer_of(name), Conversation(messages=REASONED, address="t.jsonl:7")
    first, second = ConversationEncoder(tokenizer).encode(row)
    assert len(first) < len(second)
    (kept,) = ConversationEncoder(tokenizer, truncate_to=len(second) - 1).encode(row)
    assert kept.ids.tolist() == first.ids.tolist()
