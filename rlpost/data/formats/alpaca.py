"""Rows with Alpaca's ``instruction``, ``input`` and ``output``.

Owns how these become a conversation: instruction and input are one user message, a line each, as
LLaMA-Factory does it; ``history`` holds earlier pairs of question and answer.
"""

from typing import Any

from rlpost.data.formats.base import (
    Format,
    conversation_in,
    list_in,
    optional_text,
    other_columns,
    text_in,
)
from rlpost.data.records import Conversation
from rlpost.data.rows import Row
from rlpost.data.system import COLUMN as SYSTEM
from rlpost.data.system import with_system
from rlpost.errors import DataError

_INSTRUCTION, _INPUT, _OUTPUT, _HISTORY = "instruction", "input", "output", "history"


def _read(row: Row) -> Conversation:
    given = optional_text(row, _INPUT)
    question = text_in(row, _INSTRUCTION)
    messages = _history(row)
    messages.append({"role": "user", "content": f"{question}\n{given}" if given else question})
    messages.append({"role": "assistant", "content": text_in(row, _OUTPUT)})
    return Conversation(
        messages=conversation_in(with_system(messages, row), address=row.address),
        columns=other_columns(row, _INSTRUCTION, _INPUT, _OUTPUT, SYSTEM, _HISTORY),
        address=row.address,
    )


def _history(row: Row) -> list[dict[str, Any]]:
    messages = []
    rounds = list_in(row, _HISTORY) if row.columns.get(_HISTORY) else []
    for index, pair in enumerate(rounds):
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(
                f"{row.address}: column {_HISTORY!r}[{index}] must be a list of a question and its "
                f"answer, got {pair!r:.80}"
            )
        messages.append({"role": "user", "content": pair[0]})
        messages.append({"role": "assistant", "content": pair[1]})
    return messages


ALPACA = Format(
    name="alpaca",
    kind=Conversation,
    required=(_INSTRUCTION, _OUTPUT),
    optional=(_INPUT, SYSTEM, _HISTORY),
    read=_read,
)
