"""Rows with one text, which is learned as a whole."""

from rlpost.data.formats.base import Format, other_columns, text_in
from rlpost.data.records import Document
from rlpost.data.rows import Row

_TEXT = "text"


def _read(row: Row) -> Document:
    return Document(
        text=text_in(row, _TEXT), columns=other_columns(row, _TEXT), address=row.address
    )


TEXT = Format(name="text", kind=Document, required=(_TEXT,), read=_read)
