"""Text for base models: completions and documents."""

from typing import Any

import pytest
from chat_families import tokenizer_of
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.conversation.text import DocumentEncoder
from rlpost.data.encoder import PromptEncoder
from rlpost.data.example import Example
from rlpost.data.records import Completion, Conversation, Document
from rlpost.data.rows import Row
from rlpost.errors import DataError, UserError
from rlpost.models.tiny import byte_tokenizer

END = "<|im_end|>"


def complete(tokenizer: Any, prompt: Any, completion: Any, **options: Any) -> Example:
    record = Completion(prompt=prompt, completion=completion, address="t.jsonl:7")
    (example,) = ConversationEncoder(tokenizer, **options).encode(record)
    return example


def document(tokenizer: Any, text: str) -> Example:
    (example,) = DocumentEncoder(tokenizer).encode(Document(text=text, address="t.jsonl:7"))
    return example


def test_the_completion_and_its_end_are_trained(base: PreTrainedTokenizerFast) -> None:
    example = complete(base, "The sky is", " blue.")
    assert base.decode(example.ids) == f"The sky is blue.{END}"
    assert base.decode(example.ids[example.trained]) == f" blue.{END}"
    assert complete(base, "The sky is", f" blue.{END}").ids.tolist() == example.ids.tolist()
    every = complete(base, "The sky is", " blue.", train_on="all")
    assert base.decode(every.ids[every.trained]) == f"he sky is blue.{END}"


@pytest.mark.parametrize("prompt", ["abc", "<|endoftext|>abc"])
def test_a_completion_follows_the_prompt_that_rl_gives(
    llama_style: PreTrainedTokenizerFast, prompt: str
) -> None:
    llama_style.chat_template = None
    row = Row(columns={"prompt": prompt}, address="t.jsonl:7")
    given_ids = PromptEncoder(llama_style).encode(row, uid="0:0").token_ids
    example = complete(llama_style, prompt, " def")
    assert tuple(example.ids[: len(given_ids)].tolist()) == given_ids
    assert not example.trained[: len(given_ids)].any() and example.trained[len(given_ids) :].all()
    assert example.ids.tolist().count(llama_style.bos_token_id) == 1
    assert example.ids.tolist().count(llama_style.eos_token_id) == 1


plain_texts = st.text(alphabet=st.characters(codec="utf-8"), min_size=1).filter(
    lambda text: text.strip() and "<|" not in text
)


@given(plain_texts, plain_texts)
def test_any_completion_begins_with_the_tokens_of_its_prompt(prompt: str, text: str) -> None:
    tokenizer = _without_template()
    example = complete(tokenizer, prompt, text)
    start = example.trained.argmax()
    assert example.ids[:start].tolist() == tokenizer(prompt)["input_ids"]
    assert tokenizer.decode(example.ids[start:]) == text + END


def _without_template() -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    return tokenizer


@pytest.mark.parametrize(
    ("prompt", "completion", "reason"),
    [
        (" ", "a", "the prompt is empty"),
        ("a", "", "the completion is empty"),
        ("a", f"b{END}c", "the completion contains '<|im_end|>', at which generation would stop"),
        (
            [{"role": "user", "content": "a"}],
            "b",
            "the row has messages, a system message or t",
        ),
    ],
)
def test_bad_completions_have_an_address(
    base: PreTrainedTokenizerFast, prompt: Any, completion: Any, reason: str
) -> None:
    with pytest.raises(DataError) as caught:
        complete(base, prompt, completion)
    assert str(caught.value).startswith("t.jsonl:7: ") and reason in str(caught.value)


def test_a_conversation_needs_a_template(base: PreTrainedTokenizerFast) -> None:
    messages = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    with pytest.raises(DataError, match=r"^t\.jsonl:7: .*no chat template; use rows whose prompt"):
        ConversationEncoder(base).encode(Conversation(messages=messages, address="t.jsonl:7"))


def test_a_document_is_trained_but_for_its_first_token(base: PreTrainedTokenizerFast) -> None:
    example = document(base, "Once upon a time")
    assert base.decode(example.ids) == f"Once upon a time{END}"
    assert not example.trained[0] and example.trained[1:].all()


@pytest.mark.parametrize("text", ["abc", "<|endoftext|>abc", f"abc{END}"])
def test_a_document_has_one_beginning_and_one_end(
    llama_style: PreTrainedTokenizerFast, text: str
) -> None:
    ids = document(llama_style, text).ids.tolist()
    assert ids.count(llama_style.bos_token_id) == 1 == ids.count(llama_style.eos_token_id)
    assert (ids[0], ids[-1]) == (llama_style.bos_token_id, llama_style.eos_token_id)


def test_empty_documents_and_tokenizers_without_end(base: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"^t\.jsonl:7: the document is empty"):
        document(base, "\n ")
    base.eos_token = None
    with pytest.raises(UserError, match="names no end-of-sequence token"):
        DocumentEncoder(base)


def test_the_fingerprint_names_the_tokenizer(base: PreTrainedTokenizerFast) -> None:
    first = DocumentEncoder(base).fingerprint
    assert first == DocumentEncoder(_without_template()).fingerprint
    assert first != DocumentEncoder(tokenizer_of("ChatML")).fingerprint
