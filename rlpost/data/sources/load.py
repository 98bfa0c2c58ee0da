"""The sources of rows, and the look-up of a source by name.

Owns the table of sources. Refuses to own what is in them. A new source is one function
``(SourceRequest) -> RowStream`` and one ``register_source`` line below; one whose rows are stored,
so that other processes can decode them, is a function ``(SourceRequest) -> StoredRows``.

A name is ``scheme:locator``. The scheme may be left out of built-in names
(``arithmetic``), of files (recognised by suffix), of directories (which exist) and of hub ids
(``owner/name``).
"""

import difflib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import PurePath

from rlpost.data.boundary import refusal
from rlpost.data.plain import plain_columns
from rlpost.data.rows import (
    DecodedBlock,
    Row,
    RowStream,
    SourceRequest,
    Split,
    StoredRows,
    flatten_verl,
)
from rlpost.data.sources import files, hub
from rlpost.data.sources.arithmetic import read_arithmetic
from rlpost.data.sources.bundled import read_bundled
from rlpost.data.sources.reasoning_gym import read_reasoning_gym
from rlpost.data.sources.suites import read_suite
from rlpost.data.sources.synthetic import read_judged, read_pairs, read_steps
from rlpost.errors import DataError, UserError


@dataclass(frozen=True, kw_only=True)
class Source:
    """One kind of source.

    ``generated``: rows are made by code, so the source has a held-out split of its own and
    ``data.size`` bounds it.
    """

    scheme: str
    find: Callable[[SourceRequest], StoredRows]
    generated: bool


_SOURCES: dict[str, Source] = {}
_BLOCK_ROWS = 256
_OF_PLACES = ("file:", "hub:")  # which are nothing without a place


def register_source(
    scheme: str, read: Callable[[SourceRequest], RowStream], *, generated: bool
) -> None:
    """Make ``scheme:locator`` (or ``scheme`` alone) name rows given by ``read``.

    Raises:
        ValueError: the scheme is taken.
    """
    if scheme in _SOURCES:
        raise ValueError(f"data source {scheme!r} is already registered")
    _SOURCES[scheme] = Source(scheme=scheme, find=partial(_decoded, read), generated=generated)


def _decoded(read: Callable[[SourceRequest], RowStream], request: SourceRequest) -> StoredRows:
    """Find the rows of a source that decodes them where it reads them."""
    rows = read(request)
    return StoredRows(
        blocks=_packed(rows), identity=lambda: _identity(read(request)), place=request.name
    )


def _packed(rows: RowStream) -> Iterator[DecodedBlock]:
    while block := tuple(islice(rows, _BLOCK_ROWS)):
        yield DecodedBlock(decoded=block)


def _identity(rows: RowStream) -> str:
    digest = hashlib.sha256()
    for row in rows:
        columns = str(row) if isinstance(row, DataError) else row.columns
        digest.update(json.dumps(columns, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


_SOURCES["file"] = Source(scheme="file", find=files.file_rows, generated=False)
_SOURCES["hub"] = Source(scheme="hub", find=hub.hub_rows, generated=False)
register_source("arithmetic", read_arithmetic, generated=True)
register_source("reasoning_gym", read_reasoning_gym, generated=True)
register_source("suite", read_suite, generated=True)
register_source("bundled", read_bundled, generated=True)
register_source("pairs", read_pairs, generated=True)
register_source("judged", read_judged, generated=True)
register_source("steps", read_steps, generated=True)


def find_source(name: str, *, field: str) -> tuple[Source, str]:
    """Return the source a name means and the locator within it.

    Raises:
        UserError: there is no source with this name.
    """
    scheme, _, locator = name.partition(":")
    if name.strip() in _OF_PLACES:
        raise UserError(f"{field} names no rows, got {name!r}; give a file or a directory")
    if scheme in _SOURCES:
        return _SOURCES[scheme], locator
    looks_local = name.startswith((".", "/", "~")) or os.path.isfile(name) or os.path.isdir(name)
    if looks_local or files.has_suffix(name):
        return _SOURCES["file"], name
    if hub.NAME.fullmatch(name):
        return _SOURCES["hub"], name
    close = difflib.get_close_matches(scheme, _SOURCES, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise UserError(
        f"{field}: no data source is called {name!r}{hint}; give a file "
        f"({', '.join(files.SUFFIXES)}), a directory of these, arithmetic, suite:NAME, "
        "bundled:NAME, pairs:NAME, judged:NAME, steps:NAME, reasoning_gym:TASK or a hub id "
        "OWNER/NAME"
    )


def same_file(a: str, b: str, *, field: str) -> bool:
    """Whether two names mean one file; a directory may hold several splits.

    Raises:
        UserError: there is no source with one of these names.
    """
    found = [find_source(name, field=field) for name in (a, b)]
    if any(source.scheme != "file" for source, _ in found):
        return False
    one, other = (os.path.realpath(os.path.expanduser(locator)) for _, locator in found)
    return one == other and not os.path.isdir(one)


def short_name(name: str) -> str:
    """Return the name for metrics: without scheme, folders, suffix, config and split.

    Example: ``data/eval.jsonl`` -> ``eval``, ``openai/gsm8k:main`` -> ``gsm8k``,
    ``reasoning_gym:chain_sum`` -> ``chain_sum``.

    Raises:
        UserError: there is no source with this name.
    """
    source, locator = find_source(name, field="data.train")
    if source.scheme == "file":
        last = PurePath(locator).name
        return next((last.removesuffix(s) for s in files.SUFFIXES if last.endswith(s)), last)
    if source.scheme == "hub":
        return locator.partition("@")[0].partition(":")[0].rpartition("/")[2]
    return locator or source.scheme


def hub_id(name: str) -> str | None:
    """Return ``owner/name`` of a source on the hub; None: it is no such source.

    Raises:
        UserError: there is no source with this name.
    """
    source, locator = find_source(name, field="data.train")
    match = hub.NAME.fullmatch(locator) if source.scheme == "hub" else None
    return None if match is None else match["repo"]


def find_rows(
    name: str,
    *,
    split: Split = Split.TRAIN,
    size: int = 1000,
    seed: int = 0,
    field: str = "data.train",
) -> StoredRows:
    """Find the rows of a named source, without decoding any; ``admitted`` checks them.

    Args:
        name: path, ``arithmetic``, ``reasoning_gym:TASK`` or hub id.
        split: the part of a generated source, hub dataset or directory; a file has one part only.
        size: rows wanted from a generated source.
        seed: seed of a generated source.
        field: the setting to name in errors.

    Raises:
        UserError: the source does not exist.
        DataError: the source as a whole cannot be read.
    """
    source, locator = find_source(name, field=field)
    request = SourceRequest(
        name=name, locator=locator, split=split, size=size, seed=seed, field=field
    )
    with refusal(name, "cannot be read", way_out=_WAY_OUT):
        return source.find(request)


def load_rows(
    name: str,
    *,
    split: Split = Split.TRAIN,
    size: int = 1000,
    seed: int = 0,
    field: str = "data.train",
) -> RowStream:
    """Stream the rows of a named source; see ``find_rows`` and ``admitted``."""
    found = find_rows(name, split=split, size=size, seed=seed, field=field)
    return admitted(found.rows(), name=name)


_WAY_OUT = "check the source, or write its rows to a JSONL file and give that"


def admitted(rows: RowStream, *, name: str) -> RowStream:
    """Check rows to be plain JSON data, with verl's layout converted.

    This is the one boundary where rows are read: whatever a reader raises becomes a
    ``DataError``, and a row with a value that is not plain data (plain.py) becomes one too.

    Yields:
        ``Row``, or the ``DataError`` of a row that cannot be used.

    Raises:
        DataError: the source as a whole cannot be read.
    """
    with refusal(name, "cannot be read", way_out=_WAY_OUT):
        for item in rows:
            yield item if isinstance(item, DataError) else _admitted(item)


def _admitted(row: Row) -> Row | DataError:
    try:
        columns = plain_columns(row.columns, address=row.address)
        return flatten_verl(Row(columns=columns, address=row.address))
    except DataError as error:
        return error
