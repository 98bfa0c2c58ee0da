"""Rows from columnar tables: Parquet, Arrow and what ``datasets`` loads.

Owns the decoding. In a column of objects, such tables give every row the union of all fields,
with None where a row had none: these fields are removed again, so that templates and reward
functions do not see them. Invariant: a cell that cannot be decoded makes its row bad, not the
batch that it is stored in.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rlpost.data.boundary import attempt, refusal
from rlpost.data.rows import Row, RowStream
from rlpost.errors import DataError

_BATCH_ROWS = 1024
_SHORT_FLOATS = {"float": "float32", "halffloat": "float16"}  # Arrow's name -> NumPy's
_WAY_OUT = "write the file again, with text as UTF-8"


@dataclass(frozen=True, kw_only=True)
class ColumnarBlock:
    """Some rows of a columnar file, as an Arrow stream."""

    path: Path
    first: int  # index of the first row
    stream: bytes

    def rows(self) -> RowStream:
        from pyarrow import ipc

        for batch in ipc.open_stream(self.stream):
            yield from _rows(batch, self.path, self.first)


def parquet_blocks(path: Path) -> Iterator[ColumnarBlock]:
    """Yield the rows of a Parquet file.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    from pyarrow import parquet

    with refusal(str(path), "not a readable Parquet file", way_out=_WAY_OUT):
        file = parquet.ParquetFile(path)
        _require_distinct(file.schema_arrow.names, path)
        yield from _blocks(file.iter_batches(batch_size=_BATCH_ROWS), path)


def arrow_blocks(path: Path) -> Iterator[ColumnarBlock]:
    """Yield the rows of an Arrow file: a stream, as ``datasets`` saves it, or a file.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    import pyarrow
    from pyarrow import ipc

    with (
        refusal(str(path), "not a readable Arrow file", way_out=_WAY_OUT),
        pyarrow.memory_map(str(path)) as source,
    ):
        try:
            table = ipc.open_file(source).read_all()
        except pyarrow.ArrowInvalid:
            source.seek(0)
            table = ipc.open_stream(source).read_all()
        _require_distinct(table.schema.names, path)
        yield from _blocks(table.to_batches(max_chunksize=_BATCH_ROWS), path)


def without_missing(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without the None fields of nested objects; all columns stay.

    Example: ``{"answer": None, "info": {"a": 1, "b": None}}`` ->
    ``{"answer": None, "info": {"a": 1}}``
    """
    return {name: _without_missing(value) for name, value in columns.items()}


def _without_missing(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_missing(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_missing(each) for each in value]
    return value


def _require_distinct(names: list[str], path: Path) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{path}: {count} columns are called {name!r}; rename all but one")


def _blocks(batches: Iterable[Any], path: Path) -> Iterator[ColumnarBlock]:
    from pyarrow import BufferOutputStream, ipc

    first = 0
    for batch in batches:
        _require_sound(batch)
        sink = BufferOutputStream()
        with ipc.new_stream(sink, batch.schema) as writer:  # of a slice, it writes the slice only
            writer.write_batch(batch)
        yield ColumnarBlock(path=path, first=first, stream=sink.getvalue().to_pybytes())
        first += batch.num_rows


def _rows(batch: Any, path: Path, first: int) -> RowStream:
    decoded = attempt(
        partial(_decoded, batch),
        address=str(path),
        problem="cannot be decoded",
        way_out=_WAY_OUT,
    )
    for index in range(batch.num_rows):
        address = f"{path}[{first + index}]"
        if isinstance(decoded, DataError):  # some row is bad: decode each by itself
            yield attempt(
                partial(_row, batch, index, address),
                address=address,
                problem="cannot be decoded",
                way_out=_WAY_OUT,
            )
        else:
            yield Row(columns=without_missing(decoded[index]), address=address)


def _require_sound(batch: Any) -> None:
    """Raise ``ArrowInvalid`` if a cell points outside its buffer: reading it could crash."""
    import pyarrow

    try:
        batch.validate(full=True)
    except pyarrow.ArrowInvalid as error:
        if "UTF8" not in str(error):  # bad text is found when its row is decoded
            raise


def _decoded(batch: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = batch.to_pylist(maps_as_pydicts="strict")
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        short = _SHORT_FLOATS.get(str(column.type))
        for row in rows if short else ():
            row[name] = _as_written(row[name], short)
    return rows


def _as_written(value: Any, short: str | None) -> Any:
    """Return a float32 as its shortest decimal: 0.1, not 0.10000000149011612."""
    if value is None or short is None:
        return value
    import numpy as np

    return float(str(np.dtype(short).type(value)))


def _row(batch: Any, index: int, address: str) -> Row:
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        with refusal(address, f"column {name!r} cannot be decoded", way_out=_WAY_OUT):
            value = column[index].as_py(maps_as_pydicts="strict")
            columns[name] = _as_written(value, _SHORT_FLOATS.get(str(column.type)))
    return Row(columns=without_missing(columns), address=address)
