"""Templates of other families: what they refuse, and what they fail on, names the row."""

from typing import Any

import pytest
from chat_templates import FAILS_IN, PARTS_ONLY, STRICT_TURNS, SYSTEM_FIRST, TOOLS_IN_SYSTEM
from transformers import PreTrainedTokenizerFast

from rlpost.data.encoder import PromptEncoder
from rlpost.data.rows import Row
from rlpost.errors import DataError

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "weather?"}
ANSWER = {"role": "assistant", "content": "sunny"}


def encode(tokenizer: Any, prompt: Any, **options: Any) -> str:
    row = Row(columns={"prompt": prompt}, address="t.jsonl:7")
    prompt = PromptEncoder(tokenizer, **options).encode(row, uid="0:0")
    return tokenizer.decode(prompt.token_ids)


@pytest.mark.parametrize("kind", list(FAILS_IN))
def test_whatever_a_template_raises_names_the_row(chat: PreTrainedTokenizerFast, kind: str) -> None:
    chat.chat_template = FAILS_IN[kind]
    with pytest.raises(DataError) as caught:
        encode(chat, [USER])
    said = str(caught.value)
    assert said.startswith("t.jsonl:7: the model's chat template refuses these messages: ")
    assert kind in said and "\n" not in said
    assert type(caught.value.__cause__).__name__ == kind


@pytest.mark.parametrize(
    ("template", "good", "bad", "reason"),
    [
        (STRICT_TURNS, [USER, ANSWER, USER], [SYSTEM, USER], "System role not supported"),
        (STRICT_TURNS, [USER], [USER, USER], "roles must alternate"),
        (SYSTEM_FIRST, [SYSTEM, USER, ANSWER, USER], [USER, SYSTEM, USER], "at the beginning"),
    ],
)
def test_rules_of_a_family(
    chat: PreTrainedTokenizerFast, template: str, good: Any, bad: Any, reason: str
) -> None:
    chat.chat_template = template
    assert encode(chat, good).endswith("<|im_start|>assistant\n")
    with pytest.raises(DataError, match=rf"^t\.jsonl:7: .*TemplateError: .*{reason}.*; change"):
        encode(chat, bad)


def test_a_system_prompt_that_the_template_refuses(chat: PreTrainedTokenizerFast) -> None:
    chat.chat_template = STRICT_TURNS
    assert "weather?" in encode(chat, "weather?")  # negative control
    with pytest.raises(DataError, match=r"not supported; change the messages \(or data.system_pr"):
        encode(chat, "weather?", system_prompt="Be brief.")


@pytest.mark.parametrize("template", ["", "{# nothing #}", "{{ bos_token }}"])
def test_a_template_without_text(chat: PreTrainedTokenizerFast, template: str) -> None:
    chat.chat_template = template
    with pytest.raises(DataError, match=r"^t\.jsonl:7: .*does not show the text of the last"):
        encode(chat, [USER])


def test_a_template_that_wants_parts(chat: PreTrainedTokenizerFast) -> None:
    chat.chat_template = PARTS_ONLY
    with pytest.raises(DataError, match=r"^t\.jsonl:7: .*does not show the text of the last mess"):
        encode(chat, [USER])


def test_a_template_may_change_the_text_that_it_shows(chat: PreTrainedTokenizerFast) -> None:
    chat.chat_template = "{% for m in messages %}{{ m['content'] | trim | upper }}{% endfor %}"
    assert encode(chat, " weather? ") == "WEATHER?"


def test_calls_and_results_are_rendered(chat: PreTrainedTokenizerFast) -> None:
    chat.chat_template = TOOLS_IN_SYSTEM
    call = {"id": "1", "type": "function"}
    call |= {"function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    text = encode(chat, [USER, asked, {"role": "tool", "content": "sunny"}])
    assert '<call>weather {"city": "Ulm"}</call>' in text
    assert "None" not in text
