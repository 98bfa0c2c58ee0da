"""Rows from local files: JSON lines, JSON arrays, Parquet and Arrow.

Owns the reading of files and the address of what cannot be read. Refuses to guess: a file
of another kind, or text that is not JSON, is an error with its place and a way out.
Invariant: one bad line costs that line only; the stream goes on behind it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlpost.data.rows import Row, RowStream, SourceRequest
from rlpost.errors import DataError, UserError

SUFFIXES = (".jsonl", ".json", ".parquet", ".arrow")


def read_file(request: SourceRequest) -> RowStream:
    """Yield the rows of the file ``request.locator``; split, size and seed do not matter.

    Raises:
        UserError: the file does not exist or its suffix is not one of ``SUFFIXES``.
        DataError: the file as a whole cannot be read.
    """
    path = Path(request.locator).expanduser()
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"{request.field}: {request.locator!r} must end in one of {', '.join(SUFFIXES)}; "
            "convert the file to one of these"
        )
    if not path.is_file():
        where = "is a directory" if path.is_dir() else "does not exist"
        raise UserError(
            f"{request.field}: {request.locator!r} {where} (looked for {path.absolute()}); give "
            "an existing file, or a source such as arithmetic or reasoning_gym:chain_sum"
        )
    if path.suffix == ".parquet":
        return _indexed(_parquet_rows(path), path)
    if path.suffix == ".arrow":
        return _indexed(_arrow_rows(path), path)
    if path.suffix == ".json" and _starts_array(path):
        return _json_array(path)
    return _json_lines(path)


def _json_lines(path: Path) -> RowStream:
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            if raw.strip():
                yield _parse_line(raw, address=f"{path}:{number}")


def _parse_line(raw: bytes, *, address: str) -> Row | DataError:
    try:
        # utf-8-sig: a byte order mark is common at the start of exported files.
        # Without its end, so that an error at the end of the line counts columns of this line.
        value = json.loads(raw.rstrip(b"\r\n").decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return DataError(f"{address}: column {error.start + 1}: not UTF-8; save it as UTF-8")
    except json.JSONDecodeError as error:
        return DataError(
            f"{address}: column {error.colno}: not valid JSON: {error.msg}; each line must be "
            "one complete JSON object"
        )
    if not isinstance(value, dict):
        return DataError(
            f"{address}: column 1: expected a JSON object such as "
            f'{{"prompt": ...}}, got {type(value).__name__}'
        )
    return Row(columns=value, address=address)


def _starts_array(path: Path) -> bool:
    with path.open("rb") as lines:
        for raw in lines:
            if text := raw.removeprefix(b"\xef\xbb\xbf").strip():
                return text.startswith(b"[")
    return False


def _json_array(path: Path) -> RowStream:
    try:
        values = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start}: not UTF-8; save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: column {error.colno}: not valid JSON: {error.msg}; the "
            "file must be one array of objects, or one object a line"
        ) from error
    for index, value in enumerate(values):
        address = f"{path}[{index}]"
        if isinstance(value, dict):
            yield Row(columns=value, address=address)
        else:
            yield DataError(
                f"{address}: expected a JSON object such as "
                f'{{"prompt": ...}}, got {type(value).__name__}'
            )


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error


def _arrow_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow import ipc

    # `datasets` saves Arrow as a stream, pyarrow's own writers usually as a file.
    try:
        with pyarrow.memory_map(str(path)) as source:
            try:
                batches: Any = ipc.open_file(source)
                table = batches.read_all()
            except pyarrow.ArrowInvalid:
                source.seek(0)
                table = ipc.open_stream(source).read_all()
            yield from table.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Arrow file: {error}") from error


def _indexed(values: Iterator[dict[str, Any]], path: Path) -> RowStream:
    for index, columns in enumerate(values):
        yield Row(columns=columns, address=f"{path}[{index}]")
