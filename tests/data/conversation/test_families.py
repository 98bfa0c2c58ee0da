"""Published template families: masks equal spans that were marked by hand, or are refused."""

import re
from typing import Any

import pytest
from chat_families import FAMILIES, stop_ids, tokenizer_of

from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.records import Conversation
from rlpost.errors import DataError


def oracle(tokenizer: Any, marked: str) -> tuple[list[int], list[bool]]:
    """Tokens and mask of a marked text: by offsets of characters, not by tokens of a prefix."""
    ids, mask, inside = [], [], False
    for part in marked.split("‖"):
        text, chars = "", []
        for char in part:
            if char in "⟦⟧":
                inside = char == "⟦"
                continue
            text += char
            chars.append(inside)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        for start, end in encoded["offset_mapping"]:
            assert len(set(chars[start:end])) == 1, "a token crosses a mark"
            mask.append(chars[start])
        ids += encoded["input_ids"]
    return ids, mask


def encode(name: str) -> list[Any]:
    encoder = ConversationEncoder(tokenizer_of(name), stop_ids=stop_ids(name))
    return encoder.encode(Conversation(messages=FAMILIES[name].messages, address="t.jsonl:7"))


@pytest.mark.parametrize("name", [n for n, family in FAMILIES.items() if family.marked])
def test_masks_are_those_marked_by_hand(name: str) -> None:
    tokenizer, examples = tokenizer_of(name), encode(name)
    expected = [oracle(tokenizer, marked) for marked in FAMILIES[name].marked]
    assert len(examples) == len(expected)
    for example, (ids, mask) in zip(examples, expected, strict=True):
        assert tokenizer.decode(example.ids) == tokenizer.decode(ids)
        assert example.ids.tolist() == ids
        assert example.trained.tolist() == mask


@pytest.mark.parametrize("name", [n for n, family in FAMILIES.items() if family.refused])
def test_a_mask_that_is_not_known_to_be_right_is_refused(name: str) -> None:
    with pytest.raises(
        DataError, match=r"^t\.jsonl:7: message \d: .*" + re.escape(FAMILIES[name].refused)
    ):
        encode(name)
