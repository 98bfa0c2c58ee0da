"""Rows from local files: JSON lines and JSON arrays; Parquet and Arrow by columnar.py.

Owns the reading of files and the addresses in its errors. Does not guess: a file of another
kind, or text that is not JSON, is an error with its place and a fix. Invariant: a bad line
makes only its own row bad; the stream continues after it.
"""

import json
import os
from pathlib import Path
from typing import Any

from rlpost.data import json_text
from rlpost.data.plain import Unfit
from rlpost.data.rows import Row, RowStream, SourceRequest
from rlpost.data.sources.columnar import read_arrow, read_parquet
from rlpost.errors import DataError, UserError

SUFFIXES = (".jsonl", ".json", ".parquet", ".arrow")
# First bytes of files that often have a suffix of another kind.
_OTHER_KINDS = {
    b"\x1f\x8b": "is compressed with gzip; unpack it",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it",
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"PAR1": "is a Parquet file; name it .parquet",
    b"ARROW1": "is an Arrow file; name it .arrow",
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
    b"version https://git-lfs": "is a pointer of Git LFS; fetch the content with git lfs pull",
}


def read_file(request: SourceRequest) -> RowStream:
    """Yield the rows of the file ``request.locator``; split, size and seed do not matter.

    Raises:
        UserError: the file does not exist or its suffix is not one of ``SUFFIXES``.
        DataError: the file as a whole cannot be read.
    """
    path = Path(os.path.expanduser(request.locator))
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"{request.field}: {request.locator!r} must end in one of {', '.join(SUFFIXES)}; "
            "convert the file to one of these"
        )
    if not os.path.isfile(path):  # unlike Path.is_file, also false for names that are not valid
        raise UserError(
            f"{request.field}: {request.locator!r} {_absence(path)} (looked for "
            f"{path.absolute()}); give an existing file, or a source such as arithmetic or "
            "reasoning_gym:chain_sum"
        )
    if path.suffix == ".parquet":
        return read_parquet(path)
    if path.suffix == ".arrow":
        return read_arrow(path)
    _require_text(path)
    if path.suffix == ".json" and _starts_array(path):
        return _json_array(path)
    return _json_lines(path)


def _absence(path: Path) -> str:
    if os.path.isdir(path):
        return "is a directory"
    return "is no regular file" if os.path.exists(path) else "does not exist"


def _require_text(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(max(map(len, _OTHER_KINDS)))
    for signature, what in _OTHER_KINDS.items():
        if start.startswith(signature):
            raise DataError(f"{path}: the file {what}")


def _json_lines(path: Path) -> RowStream:
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            if raw.strip():
                yield _parse_line(raw, address=f"{path}:{number}")


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
    with path.open("rb") as lines:
        for raw in lines:
            if text := raw.removeprefix(b"\xef\xbb\xbf").strip():
                return text.startswith(b"[")
    return False


def _json_array(path: Path) -> RowStream:
    try:
        text = path.read_bytes().decode("utf-8-sig")
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
