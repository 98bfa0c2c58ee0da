"""Rows from JSON text: one object a line, or one array; plain or compressed with gzip.

Owns the reading of these files and the addresses in its errors. Invariants: a bad line makes only
its own row bad, and the stream continues after it; memory is bounded by a block, a line or an
array of ``MAX_ARRAY_BYTES``, however far a compressed file expands.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from rlpost.data import json_text
from rlpost.data.plain import Unfit
from rlpost.data.rows import DecodedBlock, Row, RowBlock, RowStream
from rlpost.errors import DataError

MAX_LINE_BYTES = 64 * 2**20
MAX_ARRAY_BYTES = 256 * 2**20  # of text that was compressed
_BLOCK_BYTES = 2**20
_BLOCK_ROWS = 256
_GZIP = b"\x1f\x8b"
# First bytes of files that often have a suffix of another kind.
_OTHER_KINDS = {
    _GZIP: "is compressed with gzip; let its name end in .gz",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it",
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"PAR1": "is a Parquet file; name it .parquet",
    b"ARROW1": "is an Arrow file; name it .arrow",
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
    b"version https://git-lfs": "is a pointer of Git LFS; fetch the content with git lfs pull",
}


@dataclass(frozen=True, kw_only=True)
class LinesBlock:
    """Some whole lines of a file."""

    path: Path
    first: int  # number of the first line, from 1
    text: bytes

    def rows(self) -> RowStream:
        for number, raw in enumerate(self.text.split(b"\n"), start=self.first):
            if raw.strip():
                yield _parse_line(raw, address=f"{self.path}:{number}")


def json_blocks(path: Path) -> Iterator[RowBlock]:
    """Yield the rows of a file whose name ends in ``.json`` or ``.jsonl``, or these and ``.gz``.

    Raises:
        DataError: the file as a whole cannot be read; at once if its first bytes tell.
    """
    with _opened(path) as file:
        _require_text(path, file.read(max(map(len, _OTHER_KINDS))))
    if path.name.endswith((".json", ".json.gz")) and _starts_array(path):
        return _array_blocks(path)
    return _line_blocks(path)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, decompressed if it says so, and name it in errors of the compression."""
    if path.suffix != ".gz":
        with path.open("rb") as plain:
            yield plain
        return
    with path.open("rb") as raw:
        if raw.read(len(_GZIP)) != _GZIP:
            raise DataError(f"{path}: the file is not compressed with gzip; remove .gz")
    try:
        with gzip.open(path, "rb") as unpacked:
            yield cast(IO[bytes], unpacked)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: the compressed data is cut off or damaged ({error}); copy the file again"
        ) from error


def _require_text(path: Path, start: bytes) -> None:
    for signature, what in _OTHER_KINDS.items():
        if start.startswith(signature):
            inner = "content " if path.suffix == ".gz" else ""
            raise DataError(f"{path}: the {inner or 'file '}{what}")


def _line_blocks(path: Path) -> Iterator[RowBlock]:
    first = 1
    with _opened(path) as file:
        while text := file.read(_BLOCK_BYTES):
            if not text.endswith(b"\n"):
                text += _rest_of_line(file, path, text, first=first)
            yield LinesBlock(path=path, first=first, text=text)
            first += text.count(b"\n")


def _rest_of_line(file: IO[bytes], path: Path, text: bytes, *, first: int) -> bytes:
    begun = len(text) - text.rfind(b"\n") - 1
    rest = file.readline(MAX_LINE_BYTES - begun)
    line = first + text.count(b"\n")
    if begun + len(rest) >= MAX_LINE_BYTES and not rest.endswith(b"\n"):
        raise DataError(
            f"{path}:{line}: the line has more than "
            f"{MAX_LINE_BYTES // 2**20} MiB; write one object a line, or split the text"
        )
    return rest


def _parse_line(raw: bytes, *, address: str) -> Row | DataError:
    try:
        # utf-8-sig, because a byte order mark is common at the start of exported files.
        # Without the line end, so that an error there has a column of this line.
        value = json_text.parse(raw.rstrip(b"\r\n").decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return DataError(f"{address}: column {error.start + 1}: not UTF-8; save it as UTF-8")
    except json.JSONDecodeError as error:
        return DataError(
            f"{address}: column {error.colno}: not valid JSON: {error.msg}; each line must be "
            "one complete JSON object"
        )
    return _row(value, address=address, place=f"{address}: column 1")


def _row(value: Any, *, address: str, place: str) -> Row | DataError:
    if isinstance(value, dict):
        return Row(columns=value, address=address)
    if isinstance(value, Unfit):
        return DataError(f"{address}: {value.reason}")
    return DataError(
        f'{place}: expected a JSON object such as {{"prompt": ...}}, got {type(value).__name__}'
    )


def _starts_array(path: Path) -> bool:
    with _opened(path) as file:
        while raw := file.readline(_BLOCK_BYTES):
            if text := raw.removeprefix(b"\xef\xbb\xbf").strip():
                return text.startswith(b"[")
    return False


def _array_blocks(path: Path) -> Iterator[RowBlock]:
    rows = _array(path)
    while block := tuple(islice(rows, _BLOCK_ROWS)):
        yield DecodedBlock(decoded=block)


def _array(path: Path) -> RowStream:
    try:
        text = _array_text(path).decode("utf-8-sig")
        for index, value in enumerate(json_text.elements(text)):
            address = f"{path}[{index}]"
            yield _row(value, address=address, place=address)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start}: not UTF-8; save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: column {error.colno}: not valid JSON: {error.msg}; the "
            "file must be one array of objects, or one object a line"
        ) from error


def _array_text(path: Path) -> bytes:
    with _opened(path) as file:
        if path.suffix != ".gz":
            return file.read()
        text = file.read(MAX_ARRAY_BYTES + 1)
        if len(text) > MAX_ARRAY_BYTES:
            raise DataError(
                f"{path}: the array has more than {MAX_ARRAY_BYTES // 2**20} MiB when unpacked; "
                "write one object a line (.jsonl.gz), which is read in parts, or unpack the file"
            )
        return text
