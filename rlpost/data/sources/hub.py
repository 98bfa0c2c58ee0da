"""Rows from a dataset of the Hugging Face hub, and of one that ``datasets`` saved.

Owns the name ``owner/name[:config][@split]`` and the translation of loading failures.
Refuses to own caching and authentication (``datasets`` and ``HF_TOKEN`` do).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rlpost.data.boundary import attempt, refusal
from rlpost.data.rows import Row, RowStream, SourceRequest, Split, StoredRows
from rlpost.data.sources.columnar import without_missing
from rlpost.errors import UserError

NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?(@(?P<split>.+))?")
_BLOCK_ROWS = 1024
_DEFAULT_SPLITS = {Split.TRAIN: "train", Split.HELDOUT: "test"}


def hub_rows(request: SourceRequest) -> StoredRows:
    """Find the rows of a hub dataset; size and seed do not matter.

    Without ``@split`` the split is ``train`` for training and ``test`` for held-out;
    ``@train[:1000]`` and the like are understood by ``datasets``.

    Raises:
        UserError: the name is not a hub id.
        DataError: the dataset cannot be loaded.
    """
    match = NAME.fullmatch(request.locator)
    if match is None:
        raise UserError(
            f"{request.field}: {request.locator!r} is not a hub id; write "
            "owner/name, owner/name:config or owner/name:config@split"
        )
    import datasets

    split = match["split"] or _DEFAULT_SPLITS[request.split]
    with refusal(
        request.field,
        f"the dataset {request.locator!r} (split {split!r}) cannot be loaded",
        way_out="check the name, the network and HF_TOKEN, or give a local file",
    ):
        table = datasets.load_dataset(match["repo"], match["config"], split=split)
    return _stored(table, request.name)


def saved_rows(path: Path) -> StoredRows:
    """Find the rows of a directory that ``Dataset.save_to_disk`` wrote.

    Raises:
        DataError: the directory cannot be loaded.
    """
    import datasets

    with refusal(
        str(path),
        "the saved dataset cannot be loaded",
        way_out="save it again with save_to_disk, or write its rows to a JSONL file",
    ):
        table = datasets.load_from_disk(str(path))
    return _stored(table, str(path))


@dataclass(frozen=True, kw_only=True)
class TableBlock:
    """Some rows of a table that ``datasets`` maps into memory."""

    table: Any
    first: int  # index of the first row
    name: str

    def rows(self) -> RowStream:
        for index in range(len(self.table)):
            address = f"{self.name}[{self.first + index}]"
            columns = attempt(
                partial(self.table.__getitem__, index),
                address=address,
                problem="cannot be decoded",
                way_out="leave the column out, or write the rows to a JSONL file and give that",
            )
            if isinstance(columns, Mapping):
                yield Row(columns=without_missing(columns), address=address)
            else:
                yield columns


def _stored(table: Any, name: str) -> StoredRows:
    starts = range(0, len(table), _BLOCK_ROWS)
    return StoredRows(
        blocks=(
            TableBlock(
                table=table.select(range(first, min(first + _BLOCK_ROWS, len(table)))),
                first=first,
                name=name,
            )
            for first in starts
        ),
        identity=partial(_identity, table),
        place=name,
    )


def _identity(table: Any) -> str:
    """Return the fingerprint that ``datasets`` keeps of the content and its processing."""
    return str(table._fingerprint)
