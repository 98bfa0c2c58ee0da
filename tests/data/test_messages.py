"""A conversation's shape, checked before any template sees it."""

from typing import Any

import pytest

from rlpost.data.messages import check_messages
from rlpost.errors import DataError

USER = {"role": "user", "content": "weather?"}


def call(arguments: Any, **message: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"function": function}], **message}


RESULT = {"role": "tool", "content": "sunny"}


def check(*messages: Any) -> list[dict[str, Any]]:
    return check_messages(messages, address="t.jsonl:7")


def test_none_fields_vanish() -> None:
    filled = {**USER, "name": None, "tool_calls": None}
    assert check(filled) == [USER]


def test_arguments_as_text_become_an_object() -> None:
    (_, written, _), (_, parsed, _) = (
        check(USER, call(arguments), RESULT) for arguments in ('{"city": "Ulm"}', {"city": "Ulm"})
    )
    assert written == parsed
    assert parsed["tool_calls"][0]["function"]["arguments"] == {"city": "Ulm"}


def test_none_fields_of_a_call_vanish_and_its_arguments_stay() -> None:
    function = {"name": "weather", "arguments": {"city": None}}
    asked = {"role": "assistant", "tool_calls": [{"id": None, "function": function}]}
    _, found, _ = check(USER, asked, RESULT)
    assert found["tool_calls"] == [{"function": function}]


def test_several_results_may_follow_one_message() -> None:
    as_text = {"role": "assistant", "content": "<tool_call>weather</tool_call>"}
    for before in (call({}), as_text):
        assert len(check(USER, before, RESULT, RESULT)) == 4


@pytest.mark.parametrize(
    ("messages", "rule"),
    [
        ([USER, RESULT], "message 1: a tool message must follow the assistant message"),
        ([RESULT], "message 0: a tool message must follow the assistant message"),
        ([USER, {"role": "assistant", "content": "yes"}], "the last message is the assistant's"),
        ([USER, call({})], "the last message is the assistant's"),
        ([{**USER, "tool_calls": [1]}], "message 0: only the assistant's messages may have tool"),
        ([USER, call("{]"), RESULT], "message 1: tool call 0: its arguments are not valid JSON"),
        ([USER, call("[1]"), RESULT], "tool call 0: its arguments must be an object, got list"),
        ([USER, call('{"a": 1, "a": 2}'), RESULT], "arguments: the key 'a' occurs twice"),
        ([USER, call('{"a": [1e999]}'), RESULT], "arguments: a number must be finite"),
        ([USER, call('{"a":' * 3000), RESULT], "arguments: .* more than 100 levels deep"),
        ([USER, call(3), RESULT], "tool call 0: its arguments must be an object, got int"),
        ([USER, call({}, tool_calls={"a": 1}), RESULT], "tool_calls must be a list, got dict"),
        ([USER, call({}, tool_calls=["weather"]), RESULT], 'tool call 0 must be {"type"'),
        ([{"role": "user", "content": [{"text": "x"}]}], "got list; join the text of its parts"),
        ([{"role": "user", "content": 3}], "content must be a string, got int$"),
        ([{"role": ["user"], "content": "x"}], r"role must be one of .*, got \['user'\]"),
    ],
)
def test_what_is_wrong_is_named(messages: list[Any], rule: str) -> None:
    with pytest.raises(DataError, match=rf"^t\.jsonl:7: .*{rule}|^t\.jsonl:7: {rule}"):
        check(*messages)


def test_an_answer_at_the_end_has_a_way_out() -> None:
    with pytest.raises(DataError, match=r"remove that message, or move it into .*'completion'"):
        check(USER, {"role": "assistant", "content": "yes"})
