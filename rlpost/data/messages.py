"""Checks messages before a chat template renders them.

Owns the shape of a prompt, which ends where the model is to answer, and of a conversation, which
ends with the model's answer. Refuses to own templates (template.py), which may refuse more.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rlpost.data import json_text
from rlpost.data.plain import plain_value
from rlpost.errors import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")
SYSTEM_ROLES = ("system", "developer")  # of a message that comes before all others
Messages = list[dict[str, Any]]


def check_messages(value: Sequence[Any], *, address: str) -> Messages:
    """Return the well-formed messages of a prompt, which do not end in an answer.

    ``check_turns`` says what well-formed means.

    Raises:
        DataError: a message is malformed; the error has its index and the rule.
    """
    messages = check_turns(value, address=address)
    if messages[-1]["role"] == "assistant":
        raise DataError(
            f"{address}: the last message is the assistant's, but a prompt must end where the "
            "model is to answer; remove that message, or move it into the column 'completion'"
        )
    return messages


def check_conversation(value: Sequence[Any], *, address: str) -> Messages:
    """Return well-formed messages that a model can learn from: they end with its answer.

    At most one system message begins them, the user speaks first, and neither user nor assistant
    speaks twice in a row.

    Raises:
        DataError: a message is malformed or out of order, or there is no answer.
    """
    messages = check_turns(value, address=address)
    roles = [message["role"] for message in messages]
    start = 1 if roles[:1] and roles[0] in SYSTEM_ROLES else 0
    if roles[start:] and roles[start] != "user":
        raise DataError(
            f"{address}: message {start}: the first message after the system's must be the user's, "
            f"got role {roles[start]!r}; put the user's message before it, or leave the row out"
        )
    for index in range(start + 1, len(roles)):
        if roles[index] in SYSTEM_ROLES:
            raise DataError(
                f"{address}: message {index}: a system message must be the first one; move its "
                "text there"
            )
        if roles[index] == roles[index - 1] != "tool":
            raise DataError(
                f"{address}: message {index}: two messages of role {roles[index]!r} in a row; "
                "join them, or leave the row out"
            )
    if "assistant" not in roles:
        raise DataError(f"{address}: no message is the assistant's, so there is nothing to learn")
    if roles[-1] != "assistant":
        raise DataError(
            f"{address}: the last message is of role {roles[-1]!r}, but what is learned ends with "
            "the assistant's answer; add it, or remove what follows the last answer"
        )
    return messages


def check_turns(value: Sequence[Any], *, address: str) -> Messages:
    """Return well-formed messages: known roles, text contents, results after their calls.

    Keys with the value None are removed from messages and calls, but not from arguments.
    Arguments that are JSON text, as in OpenAI's format, become the object that templates expect.

    Raises:
        DataError: a message is malformed; the error has its index and the rule.
    """
    messages: Messages = []
    for index, message in enumerate(value):
        where = f"{address}: message {index}"
        if not isinstance(message, Mapping):
            raise DataError(f"{where} must be an object, got {type(message).__name__}")
        kept = {key: item for key, item in message.items() if item is not None}
        if kept.get("role") not in ROLES:
            raise DataError(
                f"{where}: role must be one of {', '.join(ROLES)}, got {kept.get('role')!r:.80}"
            )
        if kept.get("tool_calls"):
            kept["tool_calls"] = _check_calls(kept, where=where)
        _check_content(kept, where=where)
        if kept["role"] == "tool" and (index == 0 or messages[-1]["role"] not in _BEFORE_TOOL):
            raise DataError(
                f"{where}: a tool message must follow the assistant message that calls the tool"
            )
        messages.append(kept)
    return messages


_BEFORE_TOOL = ("assistant", "tool")


def _check_content(message: Mapping[str, Any], *, where: str) -> None:
    content = message.get("content")
    if isinstance(content, str) or (content is None and message.get("tool_calls")):
        return
    parts = isinstance(content, list)
    hint = "; join the text of its parts (images are not supported)" if parts else ""
    raise DataError(f"{where}: content must be a string, got {type(content).__name__}{hint}")


def _check_calls(message: Mapping[str, Any], *, where: str) -> list[dict[str, Any]]:
    calls = message["tool_calls"]
    if message["role"] != "assistant":
        raise DataError(f"{where}: only the assistant's messages may have tool_calls")
    if not isinstance(calls, list):
        raise DataError(f"{where}: tool_calls must be a list, got {type(calls).__name__}")
    return [_check_call(call, where=f"{where}: tool call {i}") for i, call in enumerate(calls)]


def _check_call(call: Any, *, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(
            f'{where} must be {{"type": "function", "function": {{"name": ..., "arguments": '
            f"{{...}}}}}}, got {call!r:.80}"
        )
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            parsed = json_text.parse(arguments)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: its arguments are not valid JSON: {error.msg}") from error
        arguments = plain_value(parsed, where=f"{where}: arguments")
    if not isinstance(arguments, dict):
        raise DataError(f"{where}: its arguments must be an object, got {type(arguments).__name__}")
    plain = {key: value for key, value in call.items() if value is not None}
    return {**plain, "function": {**function, "arguments": arguments}}
