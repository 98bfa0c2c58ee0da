"""Rows with a list of messages, as OpenAI, transformers and TRL write them."""

from rlpost.data.formats.base import Format, conversation_in, list_in, other_columns, tools_in
from rlpost.data.records import Conversation
from rlpost.data.rows import Row
from rlpost.data.system import COLUMN as SYSTEM
from rlpost.data.system import with_system
from rlpost.data.tools import COLUMN as TOOLS

_MESSAGES = "messages"


def _read(row: Row) -> Conversation:
    return Conversation(
        messages=conversation_in(with_system(list_in(row, _MESSAGES), row), address=row.address),
        tools=tools_in(row),
        columns=other_columns(row, _MESSAGES, SYSTEM, TOOLS),
        address=row.address,
    )


MESSAGES = Format(
    name="messages", kind=Conversation, required=(_MESSAGES,), optional=(SYSTEM, TOOLS), read=_read
)
