"""Every format: the record of a good row, and what a bad row is told."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpost.data.formats.table import FORMATS, recognise
from rlpost.data.records import (
    Completion,
    Conversation,
    Document,
    Judged,
    Pair,
    Record,
    Stepwise,
)
from rlpost.data.rows import Row
from rlpost.errors import DataError

ALL = (Conversation, Completion, Document, Pair, Judged, Stepwise)
USER, ANSWER = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
WRONG, SYSTEM = {"role": "assistant", "content": "5"}, {"role": "system", "content": "Be brief."}
RESULT = {"role": "tool", "content": "4"}
SCHEMA = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {
    "role": "assistant",
    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}],
}
AT = "t.jsonl:7"


def read(columns: dict[str, Any], *, accepts: Any = ALL) -> Record:
    row = Row(columns=columns, address=AT)
    return recognise(row, accepts=accepts).read(row)


def said(columns: dict[str, Any], *, accepts: Any = ALL) -> str:
    with pytest.raises(DataError) as caught:
        read(columns, accepts=accepts)
    assert str(caught.value).startswith(f"{AT}: ")
    return str(caught.value)


def turns(*pairs: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": who, "value": what} for who, what in pairs], **more}


GOOD: list[tuple[str, dict[str, Any], Record]] = [
    (
        "messages",
        {"messages": [SYSTEM, USER, ANSWER], "source": "x"},
        Conversation(messages=(SYSTEM, USER, ANSWER), columns={"source": "x"}, address=AT),
    ),
    (
        "messages with calls and tools as JSON text",
        {"messages": [USER, CALL, RESULT, ANSWER], "tools": json.dumps([SCHEMA])},
        Conversation(messages=(USER, CALL, RESULT, ANSWER), tools=(SCHEMA,), address=AT),
    ),
    ("messages that end in a call", {"messages": [USER, CALL]}, Conversation(
        messages=(USER, CALL), address=AT)),
    ("keys of a message are kept", {"messages": [USER, {**ANSWER, "weight": 0}]}, Conversation(
        messages=(USER, {**ANSWER, "weight": 0}), address=AT)),
    (
        "sharegpt",
        turns(("system", "Be brief."), ("human", "2 + 2?"), ("gpt", "4")),
        Conversation(messages=(SYSTEM, USER, ANSWER), address=AT),
    ),
    (
        "sharegpt with a system column and tools without their outer layer",
        turns(
            ("human", "2 + 2?"), ("function_call", '{"name": "add", "arguments": {"a": 2}}'),
            ("observation", "4"), ("gpt", "4"),
            system="Be brief.", tools=json.dumps([SCHEMA["function"]]),
        ),
        Conversation(messages=(SYSTEM, USER, CALL, RESULT, ANSWER), tools=(SCHEMA,), address=AT),
    ),
    (
        "sharegpt with two calls at once",
        turns(("user", "2 + 2?"),
              ("function_call", json.dumps([{"name": "add", "arguments": {}}] * 2)),
              ("tool", "4"), ("tool", "4"), ("assistant", "4")),
        Conversation(messages=(USER, {"role": "assistant", "tool_calls": [
            {"type": "function", "function": {"name": "add", "arguments": {}}}] * 2},
            RESULT, RESULT, ANSWER), address=AT),
    ),
    ("conversations of messages", {"conversations": [USER, ANSWER]}, Conversation(
        messages=(USER, ANSWER), address=AT)),
    (
        "alpaca",
        {"instruction": "Add.", "input": "2 + 2", "output": "4"},
        Conversation(messages=({"role": "user", "content": "Add.\n2 + 2"}, ANSWER), address=AT),
    ),
    (
        "alpaca with everything",
        {"instruction": "2 + 2?", "input": "", "output": "4", "system": "Be brief.",
         "history": [["a", "b"]], "id": 3},
        Conversation(messages=(SYSTEM, {"role": "user", "content": "a"}, {"role": "assistant",
            "content": "b"}, USER, ANSWER), columns={"id": 3}, address=AT),
    ),
    (
        "prompt and completion",
        {"prompt": "2 + 2 =", "completion": " 4", "n": 1},
        Completion(prompt="2 + 2 =", completion=" 4", columns={"n": 1}, address=AT),
    ),
    (
        "prompt and completion of messages",
        {"prompt": [SYSTEM, USER], "completion": [CALL, RESULT, ANSWER], "tools": [SCHEMA]},
        Completion(prompt=(SYSTEM, USER), completion=(CALL, RESULT, ANSWER), tools=(SCHEMA,),
                   address=AT),
    ),
    ("messages and text", {"prompt": [USER], "completion": "4"}, Completion(
        prompt=(USER,), completion="4", address=AT)),
    ("text and messages", {"prompt": "2 + 2?", "completion": [ANSWER]}, Completion(
        prompt="2 + 2?", completion=(ANSWER,), address=AT)),
    ("text", {"text": "Once", "url": None}, Document(
        text="Once", columns={"url": None}, address=AT)),
    (
        "pair",
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "margin": 1.5},
        Pair(prompt="2 + 2?", chosen="4", rejected="5", columns={"margin": 1.5}, address=AT),
    ),
    (
        "pair of answers as messages",
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [WRONG]},
        Pair(prompt=(USER,), chosen=(ANSWER,), rejected=(WRONG,), address=AT),
    ),
    (
        "pair of conversations",
        {"chosen": [SYSTEM, USER, ANSWER], "rejected": [SYSTEM, USER, WRONG]},
        Pair(prompt=(SYSTEM, USER), chosen=(ANSWER,), rejected=(WRONG,), address=AT),
    ),
    (
        "pair of conversations that also has the prompt",
        {"prompt": "2 + 2?", "chosen": [USER, ANSWER], "rejected": [USER, WRONG]},
        Pair(prompt=(USER,), chosen=(ANSWER,), rejected=(WRONG,), address=AT),
    ),
    (
        "pair of which one goes on",
        {"chosen": [USER, ANSWER, USER, ANSWER], "rejected": [USER, ANSWER]},
        Pair(prompt=(USER,), chosen=(ANSWER, USER, ANSWER), rejected=(ANSWER,), address=AT),
    ),
    (
        "judged",
        {"prompt": "2 + 2?", "completion": "5", "label": False},
        Judged(prompt="2 + 2?", completion="5", label=False, address=AT),
    ),
    ("judged by a number", {"prompt": [USER], "completion": [ANSWER], "label": 1}, Judged(
        prompt=(USER,), completion=(ANSWER,), label=True, address=AT)),
    (
        "stepwise",
        {"prompt": "2 + 2 * 3?", "completions": ["2 * 3 = 6", "2 + 6 = 9"], "labels": [True, 0.25]},
        Stepwise(prompt="2 + 2 * 3?", completions=("2 * 3 = 6", "2 + 6 = 9"), labels=(1.0, 0.25),
                 address=AT),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "record"), [each[1:] for each in GOOD], ids=lambda _: "")
def test_a_good_row(columns: dict[str, Any], record: Record) -> None:
    assert read(columns) == record


def test_every_format_has_a_good_row() -> None:
    found = {
        recognise(Row(columns=columns, address=AT), accepts=ALL).name for _, columns, _ in GOOD
    }
    assert found == set(FORMATS)


TWO_STEPS = {"completions": ["a", "b"], "labels": [1, 0]}


@pytest.mark.parametrize("prompt", ["2 + 2?", [USER], [SYSTEM, USER]])
@pytest.mark.parametrize(
    "rest",
    [
        {"completion": "4"},
        {"completion": "4", "label": 1},
        {"chosen": "4", "rejected": "5"},
        {"chosen": [ANSWER], "rejected": [WRONG]},
        {"chosen": [USER, ANSWER], "rejected": [USER, WRONG]},
        TWO_STEPS,
    ],
)
def test_a_column_with_the_system_message_begins_the_prompt(prompt: Any, rest: Any) -> None:
    record: Any = read({"prompt": prompt, "system": "Be brief.", "id": 3, **rest})
    assert (record.prompt, record.columns) == ((SYSTEM, USER), {"id": 3})
    assert read({"prompt": "2 + 2?", "system": None, **TWO_STEPS}).prompt == "2 + 2?"  # type: ignore[union-attr]
    other = {**SYSTEM, "content": "Be long."}
    refused = "column 'system' and the first message are both a system message; remove one"
    assert refused in said({"prompt": [other, USER], "system": "Be brief.", **rest})
    assert "column 'system' must be the text of the" in said({"prompt": "x", "system": 1, **rest})
    assert "column 'system' is blank" in said({"prompt": "x", "system": " ", **rest})


def test_conversations_take_the_column_with_the_system_message() -> None:
    sides = {"chosen": [USER, ANSWER], "rejected": [USER, WRONG]}
    pair = Pair(prompt=(SYSTEM, USER), chosen=(ANSWER,), rejected=(WRONG,), address=AT)
    assert read({"system": "Be brief.", **sides}) == pair
    whole = {key: [SYSTEM, *value] for key, value in sides.items()}
    assert read({"system": "Be brief.", **whole}) == pair  # the same once more
    conversation = Conversation(messages=(SYSTEM, USER, ANSWER), address=AT)
    assert read({"system": "Be brief.", "messages": [USER, ANSWER]}) == conversation
    assert read(turns(("user", "2 + 2?"), ("gpt", "4"), system="Be brief.")) == conversation


PAIR = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
STEPS = {"prompt": "x", "completions": ["a", "b"], "labels": [True, False]}
BAD: list[tuple[dict[str, Any], str]] = [
    # order of messages
    ({"messages": [USER]}, "no message is the assistant's, so there is nothing to learn"),
    ({"messages": [USER, ANSWER, USER]}, "the last message is of role 'user'"),
    ({"messages": [USER, CALL, RESULT]}, "the last message is of role 'tool'"),
    ({"messages": [SYSTEM]}, "no message is the assistant's"),
    ({"messages": [USER, USER, ANSWER]}, "message 1: two messages of role 'user' in a row"),
    ({"messages": [USER, ANSWER, ANSWER]}, "message 2: two messages of role 'assistant' in a row"),
    ({"messages": [ANSWER]}, "message 0: the first message after the system's must be the user's"),
    ({"messages": [SYSTEM, ANSWER]}, "message 1: the first message after the system's must be"),
    ({"messages": [USER, SYSTEM, ANSWER]}, "message 1: a system message must be the first one"),
    ({"messages": [SYSTEM, SYSTEM, USER, ANSWER]}, "message 1: the first message after the sys"),
    ({"messages": [USER, RESULT, ANSWER]}, "a tool message must follow the assistant message"),
    # messages themselves
    ({"messages": []}, "column 'messages' must be a list, got an empty list"),
    ({"messages": "[]"}, "column 'messages' must be a list, got str"),
    ({"messages": [USER, "4"]}, "message 1 must be an object, got str"),
    ({"messages": [{"from": "human", "value": "x"}]}, "message 0: role must be one of"),
    ({"messages": [USER, {"role": "assistant", "content": 4}]}, "message 1: content must be a str"),
    ({"messages": [USER, ANSWER], "tools": "{"}, "column 'tools' is text that is not valid JSON"),
    # ShareGPT
    (turns(("human", "x")), "no message is the assistant's"),
    (turns(("gpt", "x"), ("human", "y"), ("gpt", "z")), "the first message after the system's"),
    (turns(("bot", "x")), "turn 0: from must be one of human, user, gpt"),
    (turns(("human", "x"), ("function_call", "add(2)")), "turn 1: its function call is not valid"),
    (turns(("human", "x"), ("function_call", "[3]")), "message 1: tool call 0 must be"),
    ({"conversations": [{"from": "human"}]}, 'turn 0 must be an object {"from": ...'),
    ({"conversations": ["x"]}, "turn 0 must be an object"),
    ({"conversations": {"from": "human"}}, "column 'conversations' must be a list, got dict"),
    (turns(("system", "a"), ("human", "x"), ("gpt", "y"), system="b"), "are both a system message"),
    # Alpaca
    ({"instruction": " ", "output": "4"}, "column 'instruction' is empty"),
    ({"instruction": "x", "output": ""}, "column 'output' is empty"),
    ({"instruction": "x", "output": ["4"]}, "column 'output' must be text, got list"),
    ({"instruction": "x", "output": "4", "input": 3}, "column 'input' must be text, got int"),
    ({"instruction": "x", "output": "4", "history": [["a"]]}, "column 'history'[0] must be a list"),
    ({"instruction": "x", "output": "4", "history": "a"}, "column 'history' must be a list"),
    # prompt and completion
    ({"prompt": "", "completion": "4"}, "column 'prompt' is empty"),
    ({"prompt": "x", "completion": "\n"}, "column 'completion' is empty"),
    ({"prompt": 3, "completion": "4"}, "column 'prompt' must be text or a list of messages, got i"),
    ({"prompt": [], "completion": "4"}, "list of messages, got an empty list"),
    ({"prompt": [USER, ANSWER], "completion": "4"}, "the last message is the assistant's"),
    ({"prompt": [USER], "completion": [USER, ANSWER]}, "two messages of role 'user' in a row"),
    ({"prompt": [SYSTEM], "completion": [USER, ANSWER]}, "must begin with the assistant's message"),
    ({"prompt": "x", "completion": [ANSWER, USER]}, "the last message is of role 'user'"),
    # text
    ({"text": "  "}, "column 'text' is empty"),
    ({"text": ["a"]}, "column 'text' must be text, got list"),
    # pairs
    ({**PAIR, "rejected": "4"}, "'chosen' and 'rejected' are the same"),
    ({**PAIR, "chosen": ""}, "column 'chosen' is empty"),
    ({"chosen": "a", "rejected": "b"}, "without a column 'prompt', 'chosen' and 'rejected' must"),
    (
        {"chosen": [USER, ANSWER], "rejected": [{**USER, "content": "?"}, WRONG]},
        "do not begin with",
    ),
    ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "are the same"),
    ({"chosen": [USER], "rejected": [USER, WRONG]}, "column 'chosen': no message is the assista"),
    ({"prompt": "?", "chosen": [USER, ANSWER], "rejected": [USER, WRONG]}, "is not how the conv"),
    ({"prompt": [SYSTEM, USER], "chosen": [USER, ANSWER], "rejected": [USER, WRONG]}, "is not how"),
    # judged and stepwise
    ({"prompt": "x", "completion": "y", "label": "good"}, "column 'label' must be true or false"),
    ({"prompt": "x", "completion": "y", "label": 2}, "'label' must be true or false, got 2"),
    ({**STEPS, "labels": [True]}, "2 'completions', but 1 'labels'"),
    ({**STEPS, "labels": [True, 2]}, "labels[1] must be true, false or a number from 0 to 1"),
    ({**STEPS, "labels": [True, None]}, "labels[1] must be true"),
    ({**STEPS, "completions": ["a", ""]}, "completions[1] is empty"),
    ({**STEPS, "completions": ["a", 3]}, "completions[1] must be text, got int"),
    ({**STEPS, "completions": "ab"}, "column 'completions' must be a list, got str"),
    # no format
    ({}, "the columns none fit no format; there are messages (messages), sharegpt (conversations)"),
    ({"question": "x", "answer": "y"}, "the columns question, answer fit no format"),
    ({"prompt": "x"}, "a prompt alone is for stages that sample answers, such as rl"),
    ({"messages": None, "text": None}, "the columns none fit no format"),
    # several
    ({"messages": [USER, ANSWER], "text": "x"}, "fit 2 formats: messages (messages), text (text)"),
    ({"text": "a", "instruction": "b", "output": "c"}, "data.format=alpaca|text"),
]


@pytest.mark.parametrize(("columns", "rule"), BAD, ids=[rule[:40] for _, rule in BAD])
def test_a_bad_row(columns: dict[str, Any], rule: str) -> None:
    assert rule in said(columns)


def test_the_more_special_format_applies() -> None:
    judged = {"prompt": "x", "completion": "y", "label": False}
    assert isinstance(read(judged), Judged)
    refusal = said(judged, accepts=(Completion, Conversation))
    assert "in the format judged (prompt, completion, label), which this stage does not" in refusal


def test_formats_of_other_stages_do_not_compete() -> None:
    both = {"messages": [USER, ANSWER], "prompt": "p", "chosen": "a", "rejected": "b"}
    assert isinstance(read(both, accepts=(Conversation, Completion)), Conversation)
    assert isinstance(read(both, accepts=(Pair,)), Pair)
    assert "fit 2 formats" in said(both)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(0, 1) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "tool_calls", "function",
                                       "name", "arguments"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
turn = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": values},
    optional={"tool_calls": values},
)
names = sorted({name for each in FORMATS.values() for name in (*each.required, *each.optional)})


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(names), values | st.lists(turn, max_size=3), max_size=6))
def test_any_row_is_read_or_refused(columns: dict[str, Any]) -> None:
    try:
        record = read(columns)
    except DataError as error:
        assert str(error).startswith(f"{AT}: ")
    else:
        assert isinstance(record, ALL) and record.address == AT
