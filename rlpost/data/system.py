"""A column with the system message of a row, beside its prompt or its messages.

Owns its name and where its text goes. Refuses to own ``data.system_prompt``, which is of all rows
(encoder.py). Invariant: the text of such a column reaches the model, or the row is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rlpost.data.messages import SYSTEM_ROLES
from rlpost.data.rows import Row
from rlpost.errors import DataError

COLUMN = "system"


def with_system(asked: str | Sequence[Any], row: Row) -> str | Sequence[Any]:
    """Return a prompt, or messages, after the system message of the row's own column.

    Without such a column it is returned as it is; a text becomes the user's message behind it.

    Raises:
        DataError: the column is no text, or the messages begin with another system message.
    """
    text = row.columns.get(COLUMN)
    if text is None or text == "":
        return asked
    if not isinstance(text, str):
        raise DataError(
            f"{row.address}: column {COLUMN!r} must be the text of the system message, got "
            f"{type(text).__name__}; give the column another name if it is something else"
        )
    if not text.strip():
        raise DataError(f"{row.address}: column {COLUMN!r} is blank; fill it, or make it null")
    before = {"role": "system", "content": text}
    if isinstance(asked, str):
        return [before, {"role": "user", "content": asked}]
    first = asked[0] if asked else None
    if isinstance(first, Mapping) and first.get("role") in SYSTEM_ROLES:
        if first.get("content") == text:
            return asked
        raise DataError(
            f"{row.address}: column {COLUMN!r} and the first message are both a system message; "
            "remove one of them"
        )
    return [before, *asked]
