"""Remembered tokens are those of the whole text."""

from typing import Any

import pytest
from chat_families import ASK, FAMILIES, SAY, stop_ids, tokenizer_of
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlpost.data.conversation import turn
from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.conversation.segments import added_tokens, segment_encoder
from rlpost.data.records import Conversation
from rlpost.models.tiny import byte_tokenizer


def encoder_of(tokenizer: Any, longest: str) -> Any:
    return segment_encoder(tokenizer, added_tokens(tokenizer), longest=longest, address="t.jsonl:7")


@pytest.mark.parametrize("name", [n for n, family in FAMILIES.items() if family.marked])
def test_long_conversations_have_the_same_examples(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four answers, tokenized in segments and as whole texts."""
    family, encoder = (
        FAMILIES[name],
        ConversationEncoder(tokenizer_of(name), stop_ids=stop_ids(name)),
    )
    row = Conversation(messages=family.messages * 2, address="t.jsonl:7")
    short = encoder.encode(row)
    monkeypatch.setattr(turn, "_FEW_ANSWERS", 4)
    whole = encoder.encode(row)
    assert [each.ids.tolist() for each in short] == [each.ids.tolist() for each in whole]
    assert [each.trained.tolist() for each in short] == [each.trained.tolist() for each in whole]


def test_a_conversation_is_not_tokenized_again_for_every_answer(
    chat: PreTrainedTokenizerFast,
) -> None:
    sizes: list[int] = []

    class Counting:
        def __init__(self, tokenizer: Any) -> None:
            self._tokenizer = tokenizer

        def __getattr__(self, name: str) -> Any:
            return getattr(self._tokenizer, name)

        def __call__(self, text: str, **options: Any) -> Any:
            sizes.append(len(text))
            return self._tokenizer(text, **options)

    counting, answers = Counting(chat), 20
    messages = [
        {"role": role, "content": f"{text} {number}"}
        for number in range(answers)
        for role, text in (("user", ASK), ("assistant", SAY))
    ]
    encoder = ConversationEncoder(counting)
    sizes.clear()
    (example,) = encoder.encode(Conversation(messages=tuple(messages), address="t.jsonl:7"))
    assert sum(sizes) < 2.5 * len(chat.decode(example.ids))


@given(st.lists(st.sampled_from(["<|im_start|>", "<|im_end|>", "a", " b", "\n", "é", "<|im"])))
def test_any_text_has_the_tokens_of_the_whole(parts: list[str]) -> None:
    tokenizer, text = byte_tokenizer(), "".join(parts)
    encode = encoder_of(tokenizer, "a<|im_end|>b")
    assert encode(text) == tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("rule", ["first", "strip"])
def test_rules_that_look_beyond_added_tokens_are_found(rule: str) -> None:
    """A space before the first word alone; an added token that takes the white space after it."""
    tokenizer = byte_tokenizer()
    if rule == "first":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Metaspace(prepend_scheme="first", replacement="_"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        tokenizer.add_tokens([AddedToken("<end>", rstrip=True)])
    text = "a<|im_end|>b" if rule == "first" else "a<end>  b"
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert encoder_of(tokenizer, text)(text) == expected
    assert encoder_of(tokenizer, "a")(text) != expected  # negative control: it was not asked
