"""Small files that are written atomically and survive a power cut.

Owns the durable, atomic writing of text and JSON, and the reading of JSON with an address in
its errors. Refuses to own what the records mean. Invariant: a reader sees the old file or the
new one, never a part.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlpost.errors import DataError
from rlpost.umask import follow_umask


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Replace ``path`` by ``record``, atomically and durably.

    Raises:
        OSError: the write fails.
        ValueError: ``record`` holds NaN or infinity, which JSON cannot carry.
        TypeError: ``record`` holds something that is not plain data.
    """
    write_text(path, json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``: write a temporary file beside it, flush, rename."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        follow_umask(Path(name))
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """Read a record written by ``write_json``.

    Raises:
        DataError: missing, unreadable or not a JSON object; the message has file and line.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}:{error.colno}: not JSON ({error.msg})") from error
    except (OSError, ValueError, RecursionError) as error:  # bytes, huge numbers, deep nesting
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(record, dict):
        raise DataError(f"{path}: must hold a JSON object, found {type(record).__name__}")
    return record


def fsync_path(path: Path) -> None:
    """Flush a file's bytes, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
