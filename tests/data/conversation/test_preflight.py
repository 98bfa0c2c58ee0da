"""Masks made visible: the same text in all forms, readable without colour."""

import io
import json
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from chat_families import CONVERSATION, FAMILIES, stop_ids, tokenizer_of
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.conversation.preflight import as_html, as_json, mask_sample, preflight
from rlpost.data.conversation.preflight import print_samples as show
from rlpost.data.example import Example
from rlpost.data.records import Conversation
from rlpost.models.tiny import byte_tokenizer


def examples_of(name: str) -> list[Example]:
    encoder = ConversationEncoder(tokenizer_of(name), stop_ids=stop_ids(name))
    return encoder.encode(Conversation(messages=FAMILIES[name].messages, address="t.jsonl:7"))


def printed(samples: Any, *, colour: bool) -> str:
    console = Console(
        file=io.StringIO(), force_terminal=colour, color_system="truecolor" if colour else None
    )
    show(samples, console)
    return console.file.getvalue()


# Decoders of SentencePiece's rules put a space after each special token.
EXACT = [n for n, family in FAMILIES.items() if family.marked and family.rules != "pieces"]


@pytest.mark.parametrize("name", EXACT)
def test_without_colour_it_reads_as_marked_by_hand(name: str) -> None:
    samples = preflight(examples_of(name), tokenizer_of(name))
    expected = [marked.replace("‖", "").rstrip("\n") for marked in FAMILIES[name].marked]
    text = printed(samples, colour=False).replace("⏎\n", "\n")
    for sample, marked in zip(samples, expected, strict=True):
        assert f"{sample}\n{marked}\n" in text


def test_colours_tell_trained_from_given() -> None:
    samples = preflight(examples_of("ChatML"), tokenizer_of("ChatML"))
    assert "\x1b[1;32m⟦It is 4.<|im_end|>⟧\x1b[0m" in printed(samples, colour=True)
    assert "\x1b" not in printed(samples, colour=False)


def test_as_many_samples_as_asked_for() -> None:
    examples, tokenizer = examples_of("Qwen3"), tokenizer_of("Qwen3")
    assert len(preflight(examples * 3, tokenizer)) == 3
    assert len(preflight(examples, tokenizer)) == 2
    assert len(preflight(iter(examples), tokenizer, count=1)) == 1


def test_json_has_texts_and_whether_they_are_trained() -> None:
    (found,) = as_json(preflight(examples_of("ChatML"), tokenizer_of("ChatML")))
    assert json.loads(json.dumps(found)) == found
    assert (found["address"], found["num_tokens"]) == ("t.jsonl:7", len(examples_of("ChatML")[0]))
    assert [trained for _, trained in found["runs"]] == [False, True, False, True]
    assert found["runs"][1] == ["It is 4.<|im_end|>", True]


class Marks(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.trained: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.tags.remove(tag)

    def handle_data(self, data: str) -> None:
        if "mark" in self.tags:
            self.trained.append(data)


def test_html_is_escaped() -> None:
    tokenizer = byte_tokenizer()
    messages = (CONVERSATION[0], {"role": "assistant", "content": "<script>a & b</script>\x1b[31m"})
    record = Conversation(messages=messages, address="<t>.jsonl:7")
    page = as_html(preflight(ConversationEncoder(tokenizer).encode(record), tokenizer))
    assert "<script>" not in page and "<t>" not in page and "\x1b" not in page
    marks = Marks()
    marks.feed(page)
    assert "".join(marks.trained) == "⟦<script>a & b</script>\\x1b[31m<|im_end|>⟧"
    assert not marks.tags


def test_long_texts_lose_their_middle() -> None:
    tokenizer = byte_tokenizer()
    messages = (CONVERSATION[0], {"role": "assistant", "content": "a" * 5000})
    record = Conversation(messages=messages, address="t.jsonl:7")
    samples = preflight(ConversationEncoder(tokenizer).encode(record), tokenizer)
    text = printed(samples, colour=False)
    assert len(text) < 2000 and "characters ..." in text
    assert "a" * 5000 in as_json(samples)[0]["runs"][1][0]


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=2), st.data())
def test_stretches_are_the_whole_text(text: str, data: Any) -> None:
    """For any mask whose boundaries lie between characters."""
    tokenizer = byte_tokenizer()
    ids = np.array(tokenizer(text)["input_ids"], np.int32)
    flags = data.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
    trained = np.array(
        [flag for char, flag in zip(text, flags, strict=True) for _ in char.encode()], np.bool_
    )
    if len(trained) != len(ids):  # the text names a special token
        return
    trained[0] = False
    sample = mask_sample(Example(ids=ids, trained=trained, address="t.jsonl:7"), tokenizer)
    if len(text[0].encode()) == 1:
        assert "".join(each.text for each in sample.stretches) == text
    assert sample.num_trained == trained.sum()


def test_a_space_that_the_decoder_drops_is_shown() -> None:
    """SentencePiece's decoder drops the space at the beginning of a text."""
    sample = mask_sample(examples_of("Llama-2")[0], tokenizer_of("Llama-2"))
    assert sample.stretches[1].text == " It is 4. </s>"
    ids = examples_of("Llama-2")[0].ids[examples_of("Llama-2")[0].trained][:5]
    assert not tokenizer_of("Llama-2").decode(ids).startswith(" ")
