"""Rows with ShareGPT's ``conversations``: turns of ``from`` and ``value``.

Owns the names of roles and the layout of calls in it. Invariant: keys of a turn other than these
two are kept in its message.
"""

import json
from collections.abc import Mapping
from typing import Any

from rlpost.data import json_text
from rlpost.data.formats.base import (
    Format,
    conversation_in,
    is_messages,
    list_in,
    other_columns,
)
from rlpost.data.plain import plain_value
from rlpost.data.records import Conversation, Schemas
from rlpost.data.rows import Row
from rlpost.data.system import COLUMN as SYSTEM
from rlpost.data.system import with_system
from rlpost.data.tools import COLUMN as TOOLS
from rlpost.data.tools import check_tools, parsed_tools
from rlpost.errors import DataError

_TURNS = "conversations"
_CALL = "function_call"
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    _CALL: "assistant",
}


def _read(row: Row) -> Conversation:
    turns = list_in(row, _TURNS)
    messages = [
        turn if is_messages([turn]) else _message(turn, where=f"{row.address}: turn {index}")
        for index, turn in enumerate(turns)
    ]
    return Conversation(
        messages=conversation_in(with_system(messages, row), address=row.address),
        tools=_tools(row),
        columns=other_columns(row, _TURNS, SYSTEM, TOOLS),
        address=row.address,
    )


def _message(turn: Any, *, where: str) -> dict[str, Any]:
    if not isinstance(turn, Mapping) or "from" not in turn or "value" not in turn:
        raise DataError(
            f'{where} must be an object {{"from": ..., "value": ...}}, got {turn!r:.80}'
        )
    speaker = turn["from"]
    if not isinstance(speaker, str) or speaker not in _ROLES:
        raise DataError(f"{where}: from must be one of {', '.join(_ROLES)}, got {speaker!r:.80}")
    others = {key: value for key, value in turn.items() if key not in ("from", "value")}
    message = {"role": _ROLES[speaker], "content": turn["value"], **others}
    if speaker == _CALL:
        del message["content"]
        message["tool_calls"] = _calls(turn["value"], where=where)
    return message


def _calls(value: Any, *, where: str) -> list[dict[str, Any]]:
    """Return the calls that a turn holds as JSON: one object, or a list of several."""
    try:
        parsed = json_text.parse(value) if isinstance(value, str) else value
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: its function call is not valid JSON: {error.msg}") from error
    parsed = plain_value(parsed, where=where)
    calls = parsed if isinstance(parsed, list) else [parsed]
    return [{"type": "function", "function": call} for call in calls]


def _tools(row: Row) -> Schemas:
    """Return the schemas, which may lack the layer ``{"type": "function", "function": ...}``."""
    listed = parsed_tools(row.columns.get(TOOLS), address=row.address)
    if isinstance(listed, list):
        listed = [
            {"type": "function", "function": each}
            if isinstance(each, Mapping) and "name" in each and "function" not in each
            else each
            for each in listed
        ]
    return check_tools(listed, address=row.address)


SHAREGPT = Format(
    name="sharegpt",
    kind=Conversation,
    required=(_TURNS,),
    optional=(SYSTEM, TOOLS),
    read=_read,
)
