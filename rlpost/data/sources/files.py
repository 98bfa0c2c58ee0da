"""Rows from local files, and from directories of such files.

Owns which files there are, of which kind and in which order. Refuses to own their content
(json_files.py, columnar.py, hub.py for what ``datasets`` saved). Does not guess: a file of another
kind is an error with its place and a fix.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from rlpost.data.rows import RowBlock, SourceRequest, StoredRows
from rlpost.data.sources.columnar import arrow_blocks, parquet_blocks
from rlpost.data.sources.directory import data_files, saved_dataset
from rlpost.data.sources.hub import saved_rows
from rlpost.data.sources.json_files import json_blocks
from rlpost.errors import UserError

_READERS: Mapping[str, Callable[[Path], Iterator[RowBlock]]] = {
    ".jsonl": json_blocks,
    ".json": json_blocks,
    ".parquet": parquet_blocks,
    ".arrow": arrow_blocks,
    ".jsonl.gz": json_blocks,
    ".json.gz": json_blocks,
}
SUFFIXES = tuple(_READERS)
_HASHED_BYTES = 2**20


def has_suffix(name: str) -> bool:
    """Whether a file of this name would be one of data."""
    return name.endswith(SUFFIXES)


def file_rows(request: SourceRequest) -> StoredRows:
    """Find the rows of the file or directory ``request.locator``; size and seed do not matter.

    The split chooses among the files of a directory, if their names tell; see ``data_files``.

    Raises:
        UserError: the file does not exist, or it or one in the directory is of another kind.
        DataError: a file as a whole cannot be read.
    """
    path = Path(os.path.expanduser(request.locator))
    if os.path.isdir(path):  # unlike Path.is_dir, also false for names that are not valid
        saved = saved_dataset(path, split=request.split, field=request.field)
        if saved is not None:
            return saved_rows(saved)
        found = data_files(path, suffixes=SUFFIXES, split=request.split, field=request.field)
        return _stored(found, place=path)
    if not has_suffix(path.name):
        raise UserError(
            f"{request.field}: {request.locator!r} must end in one of {', '.join(SUFFIXES)}; "
            "convert the file to one of these"
        )
    if not os.path.isfile(path):
        absence = "is no regular file" if os.path.exists(path) else "does not exist"
        raise UserError(
            f"{request.field}: {request.locator!r} {absence} (looked for "
            f"{path.absolute()}); give an existing file, or a source such as arithmetic or "
            "reasoning_gym:chain_sum"
        )
    return _stored([path], place=path)


def _stored(files: Sequence[Path], *, place: Path) -> StoredRows:
    return StoredRows(
        # The first file is opened at once, so that a wrong one is refused before any other work.
        blocks=chain(_blocks(files[0]), chain.from_iterable(map(_blocks, files[1:]))),
        identity=partial(_identity, files, place),
        place=str(place),
    )


def _blocks(path: Path) -> Iterator[RowBlock]:
    return next(read for end, read in _READERS.items() if path.name.endswith(end))(path)


def _identity(files: Sequence[Path], place: Path) -> str:
    """Return a hash of the content and of the names below ``place``, which addresses show."""
    from blake3 import blake3

    digest = blake3()
    for path in files:
        content = blake3(max_threads=1)
        with path.open("rb") as file:
            while part := file.read(_HASHED_BYTES):
                content.update(part)
        name = path.relative_to(place) if path != place else Path(path.name).suffix
        digest.update(f"{name}\0{content.hexdigest()}\0".encode())
    return digest.hexdigest()
