"""The column ``tools``: its shape, its place in the prompt, and what must not be dropped."""

import json
from typing import Any

import pytest
from chat_templates import FIRST_TOOL_ONLY, TOOLS_IN_SYSTEM
from transformers import PreTrainedTokenizerFast

from rlpost.data.encoder import PromptEncoder
from rlpost.data.rows import Row
from rlpost.data.tools import check_tools
from rlpost.errors import DataError
from rlpost.types import Prompt

USER = {"role": "user", "content": "weather?"}


def tool(name: str, **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = tool("weather", description="of a city", parameters=CITY)
TIME = tool("time")


def encode(tokenizer: Any, prompt: Any, tools: Any) -> Prompt:
    row = Row(columns={"prompt": prompt, "tools": tools, "answer": "1"}, address="t.jsonl:7")
    return PromptEncoder(tokenizer).encode(row, uid="0:0")


@pytest.fixture
def hermes(chat: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    chat.chat_template = TOOLS_IN_SYSTEM
    return chat


@pytest.mark.parametrize("prompt", ["weather?", [USER]])
def test_tools_are_in_the_prompt(hermes: PreTrainedTokenizerFast, prompt: Any) -> None:
    found = encode(hermes, prompt, [WEATHER, TIME])
    expected = hermes.apply_chat_template(
        [USER], tools=[WEATHER, TIME], add_generation_prompt=True, return_dict=False
    )
    assert found.token_ids == tuple(expected)
    assert json.dumps(CITY) in hermes.decode(found.token_ids)
    assert found.tools == (WEATHER, TIME)
    assert found.columns == {"tools": [WEATHER, TIME], "answer": "1"}


@pytest.mark.parametrize("written", [json.dumps([WEATHER]), [json.dumps(WEATHER)]])
def test_schemas_may_be_json_text(hermes: PreTrainedTokenizerFast, written: Any) -> None:
    assert encode(hermes, [USER], written) == encode(hermes, [USER], [WEATHER])


def test_null_without_a_meaning_reaches_no_prompt(hermes: PreTrainedTokenizerFast) -> None:
    """As ``datasets`` writes JSON lines: every schema has the keys of all others."""
    properties = {"city": {"type": "string", "default": None, "enum": None}, "default": None}
    parameters = {"type": "object", "properties": properties, "required": None}
    filled = tool("weather", description=None, parameters=parameters)
    text = hermes.decode(encode(hermes, [USER], [filled]).token_ids)
    properties = {"city": {"type": "string", "default": None}}
    assert json.dumps(tool("weather", parameters=CITY | {"properties": properties})) in text


@pytest.mark.parametrize("none", [None, [], "", "[]", "null"])
def test_no_tools_are_no_tools(chat: PreTrainedTokenizerFast, none: Any) -> None:
    found = encode(chat, [USER], none)
    assert (found.tools, found.columns) == ((), {"tools": None, "answer": "1"})
    row = Row(columns={"prompt": [USER]}, address="")
    assert found.token_ids == PromptEncoder(chat).encode(row, uid="0:0").token_ids


def test_a_template_that_leaves_tools_out_is_refused(chat: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"^t\.jsonl:7: .*does not show the function 'weather'"):
        encode(chat, [USER], [WEATHER])
    chat.chat_template = FIRST_TOOL_ONLY
    encode(chat, [USER], [WEATHER])  # negative control
    with pytest.raises(DataError, match="does not show the function 'time'"):
        encode(chat, [USER], [WEATHER, TIME])


def test_a_name_in_the_question_is_no_tool(chat: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="does not show the function 'weather'"):
        encode(chat, "How is the weather?", [WEATHER])


def test_a_name_that_the_template_uses_itself(hermes: PreTrainedTokenizerFast) -> None:
    """Without tools this template writes ``assistant`` in a text of its own instead."""
    default = "{% if not tools %}<|im_start|>system\nBe an assistant.<|im_end|>\n{% endif %}"
    hermes.chat_template = default + TOOLS_IN_SYSTEM
    assert encode(hermes, [USER], [tool("assistant")]).tools == (tool("assistant"),)


def test_a_base_model_cannot_be_told(base: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"the row has tools, but .* no chat template"):
        encode(base, "weather?", [WEATHER])
    assert encode(base, "weather?", []).token_ids  # negative control


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("not json", "is text that is not valid JSON: Expecting value"),
        ('{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        ("[" * 5000, "more than 100 levels deep"),
        ({"search": {}}, "must be a list of function schemas, got dict"),
        (["search"], r"\[0\] is text that is not valid JSON"),
        ([3], r"\[0\] must be a function schema"),
        ([{"name": "search", "parameters": {}}], r"\[0\] must be a function schema"),
        ([{"type": "web_search", "function": {"name": "x"}}], "must be a function schema"),
        ([tool("")], "function.name must be letters, .* got ''"),
        ([tool("a b")], "function.name must be letters"),
        ([{"type": "function", "function": {}}], "function.name must be letters, .* got None"),
        ([tool("x", description=3)], "function.description must be text"),
        ([tool("x", parameters=[1])], "function.parameters must be a JSON schema of an object"),
        ([tool("x", parameters={"type": "string"})], "must be a JSON schema of an object"),
        ([tool("x", parameters={"properties": [1]})], "parameters.properties must be an object"),
        ([tool("x", parameters={"required": "city"})], "parameters.required must be a list"),
        ([TIME, WEATHER, TIME], "has 2 functions called 'time'"),
    ],
)
def test_malformed_schemas_are_named(value: Any, rule: str) -> None:
    with pytest.raises(DataError, match=rf"^t\.jsonl:7: column 'tools'.*{rule}"):
        check_tools(value, address="t.jsonl:7")
