"""Reads all rows of one source in one format.

Owns the names of columns and that a source has a single format. Refuses to own the choice of a
row's format (table.py) and what happens to a bad row. Invariant: a reader is settled by the first
row whose format is clear, before rows are handed to several processes, so that all agree.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rlpost.data.formats.base import Format
from rlpost.data.formats.table import FORMATS, Kinds, accepted_formats, recognise
from rlpost.data.records import Record
from rlpost.data.rows import Row, listed
from rlpost.errors import DataError, UserError


@dataclass(frozen=True, kw_only=True)
class RecordReader:
    """Makes the record of a row.

    Attributes:
        accepts: kinds of records that are wanted.
        format: name of the only format; None: that of the first row.
        columns: column of a format -> column of the source, or a path into an object such as
            ``extra_info.answer``.
        option: where the source's options are, for errors.
        first: address of the row that settled the format.
    """

    accepts: Kinds
    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    option: str = "data"
    first: str | None = None

    def check(self) -> None:
        """Raises UserError: the format, or a column, does not exist or is not wanted."""
        names = [each.name for each in accepted_formats(self.accepts)]
        if self.format is not None and self.format not in names:
            raise UserError(
                f"{self.option}.format must be one of {', '.join(names)}, got {self.format!r:.80}; "
                "leave it out to let the columns tell"
            )
        self._check_columns()

    def _check_columns(self) -> None:
        formats = [FORMATS[self.format]] if self.format else accepted_formats(self.accepts)
        known = dict.fromkeys(name for each in formats for name in each.columns)
        for name in self.columns:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {close[0]}?)" if close else ""
                raise UserError(
                    f"{self.option}.columns.{name!s:.80} is no column of "
                    f"{'a format here' if self.format is None else self.format}{hint}; there are "
                    f"{', '.join(known)}, and each is given the name that the source has for it"
                )

    def settled(self, rows: Iterable[Row | DataError]) -> "RecordReader":
        """Return this reader with the format of the first row that has one."""
        for row in rows if self.format is None else ():
            if isinstance(row, DataError):
                continue
            try:
                found = self._recognised(self._renamed(row))
            except DataError:
                continue  # refused again when the row is read
            return replace(self, format=found.name, first=row.address)
        return self

    def read(self, row: Row) -> Record:
        """Return the record of a row.

        Raises:
            DataError: the row is not in the format of the source, or bad in it.
        """
        row = self._renamed(row)
        if self.format is None or self.first is not None:
            found = self._recognised(row)
            if self.format is not None and found.name != self.format:
                raise DataError(
                    f"{row.address}: the row is in the format {found}, but {self.first} is in "
                    f"{FORMATS[self.format]}; a source has one format: make two of it"
                )
            return found.read(row)
        chosen = FORMATS[self.format]
        lacking = [name for name in chosen.required if row.columns.get(name) is None]
        if lacking:
            raise DataError(
                f"{row.address}: {self.option}.format={chosen.name} needs the column "
                f"{lacking[0]!r}, but the row has {listed(row.columns)}; rename one with "
                f"{self.option}.columns.{lacking[0]}=NAME"
            )
        return chosen.read(row)

    def _recognised(self, row: Row) -> Format:
        return recognise(row, accepts=self.accepts, field=self.option)

    def _renamed(self, row: Row) -> Row:
        if not self.columns:
            return row
        found = {name: self._at(path, row) for name, path in self.columns.items()}
        moved = set(self.columns.values())
        others = {name: value for name, value in row.columns.items() if name not in moved}
        return Row(columns={**others, **found}, address=row.address)

    def _at(self, path: str, row: Row) -> Any:
        if path in row.columns:
            return row.columns[path]
        value: Any = row.columns
        for key in path.split("."):
            if not isinstance(value, Mapping) or key not in value:
                raise DataError(
                    f"{row.address}: no column {path!r}, which {self.option}.columns names; the "
                    f"row has {listed(row.columns)}"
                )
            value = value[key]
        return value
