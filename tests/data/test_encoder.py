"""Prompts: the template's own tokens, one BOS, and refusals with an address."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlpost.data.encoder import PromptEncoder, PromptTooLong
from rlpost.data.rows import Row
from rlpost.errors import DataError, UserError
from rlpost.models.embedded import materialize
from rlpost.models.tiny import byte_tokenizer

USER = {"role": "user", "content": "What is 2 * 3?"}
SYSTEM = {"role": "system", "content": "Be brief."}
SMOLLM_DEFAULT = "You are a helpful AI assistant named SmolLM"


def row(prompt: Any, **columns: Any) -> Row:
    return Row(columns={"prompt": prompt, **columns}, address="t.jsonl:7")


def render(tokenizer: Any, messages: list) -> tuple[int, ...]:
    """transformers' own words: rendered as text first, so by another path than ours."""
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.fixture(scope="module")
def smollm() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(materialize())


def test_string_is_one_user_message(chat: PreTrainedTokenizerFast) -> None:
    prompt = PromptEncoder(chat).encode(row("What is 2 * 3?", answer="6"), uid="0:4")
    assert prompt.token_ids == render(chat, [USER])
    assert prompt.text == "What is 2 * 3?"
    assert prompt.messages is None
    assert prompt.columns == {"answer": "6"}
    assert (prompt.uid, prompt.address) == ("0:4", "t.jsonl:7")


def test_messages_and_string_give_the_same_tokens(smollm: PreTrainedTokenizerFast) -> None:
    encoder = PromptEncoder(smollm)
    from_string = encoder.encode(row("What is 2 * 3?"), uid="0:0")
    from_list = encoder.encode(row([USER]), uid="0:0")
    assert from_string.token_ids == from_list.token_ids == render(smollm, [USER])
    assert from_list.messages == (USER,)
    assert from_list.text == "What is 2 * 3?"


def test_system_prompt_replaces_the_templates_default(smollm: PreTrainedTokenizerFast) -> None:
    plain = PromptEncoder(smollm).encode(row("What is 2 * 3?"), uid="0:0")
    assert SMOLLM_DEFAULT in smollm.decode(plain.token_ids)
    ours = PromptEncoder(smollm, system_prompt="Be brief.").encode(row("What is 2 * 3?"), uid="0:0")
    assert SMOLLM_DEFAULT not in smollm.decode(ours.token_ids)
    assert ours.token_ids == render(smollm, [SYSTEM, USER])


def test_the_rows_own_system_message_wins(chat: PreTrainedTokenizerFast) -> None:
    encoder = PromptEncoder(chat, system_prompt="Ignore this.")
    prompt = encoder.encode(row([SYSTEM, USER]), uid="0:0")
    assert prompt.token_ids == render(chat, [SYSTEM, USER])
    added = encoder.encode(row([USER]), uid="0:0")
    assert added.messages == ({"role": "system", "content": "Ignore this."}, USER)


@pytest.mark.parametrize("asked", [USER["content"], [USER]])
def test_a_column_with_the_system_message_is_the_rows_own(
    chat: PreTrainedTokenizerFast, base: PreTrainedTokenizerFast, asked: object
) -> None:
    encoder = PromptEncoder(chat, system_prompt="Ignore this.")
    prompt = encoder.encode(row(asked, system="Be brief."), uid="0:0")
    assert prompt.token_ids == render(chat, [SYSTEM, USER])
    assert prompt.columns == {"system": "Be brief."}  # reward functions may read it, too
    without = encoder.encode(row(asked, system=None), uid="0:0")
    assert without.conversation == ({"role": "system", "content": "Ignore this."}, USER)
    with pytest.raises(DataError, match=r"^t.jsonl:7: column 'system' must be the text of the sys"):
        encoder.encode(row(asked, system=3), uid="0:0")
    with pytest.raises(DataError, match=r"both a system message; remove one of them"):
        encoder.encode(row([{**SYSTEM, "content": "Be long."}, USER], system="Be brief."), uid="0")
    with pytest.raises(DataError, match=r"^t.jsonl:7: the row has a .*no chat template"):
        PromptEncoder(base).encode(row(asked, system="Be brief."), uid="0:0")


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=1).filter(str.strip))
def test_any_text_survives(text: str) -> None:
    tokenizer = byte_tokenizer()
    prompt = PromptEncoder(tokenizer).encode(row(text), uid="0:0")
    assert prompt.token_ids == render(tokenizer, [{"role": "user", "content": text}])


def test_base_model_gets_the_bare_text(base: PreTrainedTokenizerFast) -> None:
    prompt = PromptEncoder(base).encode(row("abc"), uid="0:0")
    assert base.decode(prompt.token_ids) == "abc"
    assert len(prompt.token_ids) == 3


def test_base_model_refuses_messages_and_system_prompts(base: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"^t.jsonl:7: .*no chat template"):
        PromptEncoder(base).encode(row([USER]), uid="0:0")
    with pytest.raises(UserError, match=r"data\.system_prompt is set"):
        PromptEncoder(base, system_prompt="x")


@pytest.mark.parametrize("text", ["abc", "<|endoftext|>abc"])
def test_exactly_one_bos_and_no_eos_without_template(
    llama_style: PreTrainedTokenizerFast, text: str
) -> None:
    llama_style.chat_template = None
    ids = PromptEncoder(llama_style).encode(row(text), uid="0:0").token_ids
    assert ids.count(llama_style.bos_token_id) == 1
    assert ids[0] == llama_style.bos_token_id
    assert ids[-1] != llama_style.eos_token_id
    # Negative control: plain encoding of a text with BOS doubles it and closes with EOS.
    assert llama_style("<|endoftext|>abc")["input_ids"].count(llama_style.bos_token_id) == 2
    assert llama_style("abc")["input_ids"][-1] == llama_style.eos_token_id


def test_exactly_one_bos_with_template(llama_style: PreTrainedTokenizerFast) -> None:
    ids = PromptEncoder(llama_style).encode(row("abc"), uid="0:0").token_ids
    assert ids.count(llama_style.bos_token_id) == 1
    llama_style.chat_template = "{{ bos_token }}" + llama_style.chat_template
    with pytest.raises(DataError, match=r"^t.jsonl:7: .*two beginning-of-sequence"):
        PromptEncoder(llama_style).encode(row("abc"), uid="0:0")


def test_length_limit_is_exact(chat: PreTrainedTokenizerFast) -> None:
    length = len(render(chat, [USER]))
    PromptEncoder(chat, max_prompt_tokens=length).encode(row([USER]), uid="0:0")
    tight = PromptEncoder(chat, max_prompt_tokens=length - 1)
    with pytest.raises(
        PromptTooLong, match=rf"^t.jsonl:7: .*{length} tokens, at most {length - 1}"
    ):
        tight.encode(row([USER]), uid="0:0")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "column 'prompt' is empty"),
        (" \n", "column 'prompt' is empty"),
        ([{"role": "user", "content": ""}], "column 'prompt' is empty"),
        ([], "must be a string or a list of messages, got an empty list"),
        (None, "got NoneType"),
        (7, "got int"),
        (["hello"], "message 0 must be an object, got str"),
        ([{"content": "x"}], "message 0: role must be one of .*, got None"),
        ([USER, {"role": "bot", "content": "x"}], "message 1: role must be one of .*, got 'bot'"),
        ([{"role": "user"}], "message 0: content must be a string, got NoneType"),
        ([{"role": "user", "content": [{"type": "image"}]}], "content must be a string, got list"),
        ([USER, {"role": "assistant", "content": "6"}], "the last message is the assistant's"),
    ],
)
def test_bad_prompts_have_an_address(
    chat: PreTrainedTokenizerFast, prompt: Any, message: str
) -> None:
    with pytest.raises(DataError, match=rf"^t.jsonl:7: .*{message}|^t.jsonl:7: {message}"):
        PromptEncoder(chat).encode(row(prompt), uid="0:0")


def test_missing_column_lists_those_present(chat: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"^t.jsonl:7: no column 'question'") as caught:
        PromptEncoder(chat, prompt_column="question").encode(row("x", answer="y"), uid="0:0")
    assert "columns present: prompt, answer" in str(caught.value)


def test_none_fields_of_columnar_messages_vanish(chat: PreTrainedTokenizerFast) -> None:
    prompt = PromptEncoder(chat).encode(row([{**USER, "name": None}]), uid="0:0")
    assert prompt.messages == (USER,)


def test_a_template_that_refuses_names_the_row(chat: PreTrainedTokenizerFast) -> None:
    chat.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(DataError, match=r"^t.jsonl:7: .*System role not supported"):
        PromptEncoder(chat).encode(row([SYSTEM, USER]), uid="0:0")
