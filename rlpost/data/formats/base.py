"""What a format is, and how its columns are read and checked.

Owns the reading of single columns. Refuses to own the formats themselves (one file each) and the
choice between them (table.py). Invariant: every refusal names the row, the column and the rule.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from rlpost.data.messages import check_conversation, check_messages
from rlpost.data.records import Content, Record, Schemas, Turns
from rlpost.data.rows import Row
from rlpost.data.tools import COLUMN as TOOLS
from rlpost.data.tools import check_tools
from rlpost.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Format:
    """One layout of a row.

    ``read`` makes the record of a row that has the required columns; it raises ``DataError``.
    """

    name: str
    kind: type[Record]
    required: tuple[str, ...]  # columns that tell the format, none of them null
    optional: tuple[str, ...] = ()
    read: Callable[[Row], Record]

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that it reads."""
        return (*self.required, *self.optional)

    def __str__(self) -> str:
        """Example: ``alpaca (instruction, output)``."""
        return f"{self.name} ({', '.join(self.required)})"


def other_columns(row: Row, *used: str) -> dict[str, Any]:
    """Return the columns of a row that are not among ``used``."""
    return {name: value for name, value in row.columns.items() if name not in used}


def text_in(row: Row, column: str) -> str:
    """Return the text of a column.

    Raises:
        DataError: it is no text, or blank.
    """
    value = row.columns[column]
    if not isinstance(value, str):
        raise DataError(
            f"{row.address}: column {column!r} must be text, got {type(value).__name__}"
        )
    return not_blank(value, where=f"{row.address}: column {column!r}")


def optional_text(row: Row, column: str) -> str:
    """Return the text of a column, empty where the row has none.

    Raises:
        DataError: it is no text.
    """
    value = row.columns.get(column)
    if value is None or value == "":
        return ""
    return text_in(row, column)


def not_blank(text: str, *, where: str) -> str:
    """Raises DataError: ``text`` holds nothing but space."""
    if not text.strip():
        raise DataError(f"{where} is empty; fill it, or leave the row out")
    return text


def list_in(row: Row, column: str) -> Sequence[Any]:
    """Return the list of a column.

    Raises:
        DataError: it is no list, or an empty one.
    """
    value = row.columns[column]
    if not isinstance(value, list) or not value:
        got = "an empty list" if value == [] else type(value).__name__
        raise DataError(f"{row.address}: column {column!r} must be a list, got {got}")
    return value


def content_in(row: Row, column: str) -> str | Sequence[Any]:
    """Return the text or the list of messages of a column; messages are not checked yet.

    Raises:
        DataError: it is neither, or it is empty.
    """
    value = row.columns[column]
    if isinstance(value, str):
        return not_blank(value, where=f"{row.address}: column {column!r}")
    if isinstance(value, list) and value:
        return value
    got = "an empty list" if value == [] else type(value).__name__
    raise DataError(
        f"{row.address}: column {column!r} must be text or a list of messages, got {got}"
    )


def conversation_in(value: Sequence[Any], *, address: str) -> Turns:
    """Return messages that end with the assistant's answer; see ``check_conversation``."""
    return tuple(check_conversation(value, address=address))


def answered(
    prompt: str | Sequence[Any], completion: str | Sequence[Any], *, address: str
) -> tuple[Content, Content]:
    """Return a prompt and its completion, checked as one conversation if either has messages.

    Raises:
        DataError: messages are malformed or out of order.
    """
    if isinstance(prompt, str) and isinstance(completion, str):
        return prompt, completion
    asked = prompt if isinstance(prompt, str) else check_messages(prompt, address=address)
    before = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    after = completion
    if isinstance(after, str):
        after = [{"role": "assistant", "content": after}]
    turns = check_conversation([*before, *after], address=address)
    if turns[len(before)]["role"] != "assistant":
        raise DataError(
            f"{address}: a completion must begin with the assistant's message, got role "
            f"{turns[len(before)]['role']!r}; move what comes before the answer into the prompt"
        )
    return (
        asked if isinstance(asked, str) else tuple(turns[: len(before)]),
        completion if isinstance(completion, str) else tuple(turns[len(before) :]),
    )


def tools_in(row: Row) -> Schemas:
    """Return the functions of the column ``tools``; none where the row has none."""
    return check_tools(row.columns.get(TOOLS), address=row.address)


def is_messages(value: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    """Whether ``value`` is a list of objects that have roles."""
    return isinstance(value, list) and all(isinstance(m, Mapping) and "role" in m for m in value)
