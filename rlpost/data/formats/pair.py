"""Rows with a chosen and a rejected completion.

Owns where the prompt ends. The prompt is the column of that name, or what two whole conversations
have in common at their beginning; where there are both, they must agree.
"""

from collections.abc import Sequence
from typing import Any

from rlpost.data.formats.base import (
    Format,
    answered,
    content_in,
    conversation_in,
    is_messages,
    other_columns,
    tools_in,
)
from rlpost.data.messages import check_messages
from rlpost.data.records import Content, Pair, Turns
from rlpost.data.rows import Row
from rlpost.data.system import COLUMN as SYSTEM
from rlpost.data.system import with_system
from rlpost.data.tools import COLUMN as TOOLS
from rlpost.errors import DataError

_PROMPT, _CHOSEN, _REJECTED = "prompt", "chosen", "rejected"


def _read(row: Row) -> Pair:
    sides = content_in(row, _CHOSEN), content_in(row, _REJECTED)
    whole = [is_messages(side) and side[0]["role"] != "assistant" for side in sides]
    asked = row.columns.get(_PROMPT)
    if all(whole):
        prompt, chosen, rejected = _split(*(with_system(side, row) for side in sides), row=row)
        if asked is not None:
            _require_same(content_in(row, _PROMPT), prompt, row=row)
    elif asked is None:
        raise DataError(
            f"{row.address}: without a column {_PROMPT!r}, {_CHOSEN!r} and {_REJECTED!r} must be "
            "whole conversations (lists of messages that begin alike); add the prompt, "
            f"or name its column with data.columns.{_PROMPT}=NAME"
        )
    else:
        given = with_system(content_in(row, _PROMPT), row)
        prompt, chosen = answered(given, sides[0], address=row.address)
        _, rejected = answered(given, sides[1], address=row.address)
    if chosen == rejected:
        raise DataError(
            f"{row.address}: {_CHOSEN!r} and {_REJECTED!r} are the same, so neither is better; "
            "leave the row out"
        )
    return Pair(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        tools=tools_in(row),
        columns=other_columns(row, _PROMPT, _CHOSEN, _REJECTED, SYSTEM, TOOLS),
        address=row.address,
    )


def _split(
    chosen: str | Sequence[Any], rejected: str | Sequence[Any], *, row: Row
) -> tuple[Content, Content, Content]:
    """Return the common beginning of two conversations and how each goes on with an answer."""
    better, worse = (
        conversation_in(side, address=f"{row.address}: column {name!r}")
        for side, name in ((chosen, _CHOSEN), (rejected, _REJECTED))
    )
    common = 0
    for one, other in zip(better, worse, strict=False):
        if one != other:
            break
        common += 1
    while common and not (_answers_at(better, common) and _answers_at(worse, common)):
        common -= 1
    if not common:
        raise DataError(
            f"{row.address}: {_CHOSEN!r} and {_REJECTED!r} do not begin with the same messages up "
            "to an answer, so they have no prompt in common; give it in the column 'prompt'"
        )
    return better[:common], better[common:], worse[common:]


def _answers_at(messages: Turns, index: int) -> bool:
    return index < len(messages) and messages[index]["role"] == "assistant"


def _require_same(given: str | Sequence[Any], found: Content, *, row: Row) -> None:
    if isinstance(given, str):
        same = found[-1]["content"] == given  # type: ignore[index]
    else:
        messages = with_system(given, row)
        same = tuple(check_messages(messages, address=row.address)) == found
    if not same:
        raise DataError(
            f"{row.address}: the column {_PROMPT!r} is not how the conversations in {_CHOSEN!r} "
            f"and {_REJECTED!r} begin; remove the column, or keep only the answers in these two"
        )


PAIR = Format(
    name="pair",
    kind=Pair,
    required=(_CHOSEN, _REJECTED),
    optional=(_PROMPT, SYSTEM, TOOLS),
    read=_read,
)
