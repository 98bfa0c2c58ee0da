"""The rows of a source, each with its address, and what a source is asked and returns.

Owns these records and the conversion of verl's layout to plain columns. Refuses to own tokens
(encoder.py) and the choice between stopping at a bad row and skipping it (dataset.py): a source
yields the ``DataError`` of a bad row and continues. Invariant: every row has its origin as
address: ``file:line`` (from 1) for text files, ``name[index]`` (from 0) for other sources.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any, Protocol

from rlpost.errors import DataError


class Split(StrEnum):
    """Which part of a source: rows to train on, or rows to evaluate on."""

    TRAIN = "train"
    HELDOUT = "heldout"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a source; after ``load_rows`` its columns are plain JSON data.

    Example: ``Row(columns={"prompt": "What is 2 * 3?", "answer": "6"},
    address="train.jsonl:17")``
    """

    columns: Mapping[str, Any]
    address: str


@dataclass(frozen=True, kw_only=True)
class SourceRequest:
    """The request to a source; each source documents which fields it uses.

    Example: ``SourceRequest(name="reasoning_gym:chain_sum", locator="chain_sum",
    split=Split.TRAIN, size=1000, seed=0, field="data.train")``
    """

    name: str  # as the user wrote it; addresses begin with it
    locator: str  # the name without its scheme
    split: Split
    size: int  # rows wanted; an upper bound for generated sources, unused by stored ones
    seed: int
    field: str  # the setting to name in errors


RowStream = Iterator[Row | DataError]


class RowBlock(Protocol):
    """Consecutive rows of a source as they are stored; picklable, and decoded where needed."""

    def rows(self) -> RowStream:
        """Decode the rows, in their order.

        Raises:
            DataError: the source as a whole cannot be read.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """A source that was found, before anything is decoded.

    Attributes:
        blocks: all rows, read as the iterator advances, so that few are in memory.
        identity: returns a hash of the content, which does not depend on the place.
        place: the addresses of all rows begin with it.
    """

    blocks: Iterator[RowBlock]
    identity: Callable[[], str]
    place: str

    def rows(self) -> RowStream:
        """Decode all rows here."""
        return chain.from_iterable(block.rows() for block in self.blocks)


@dataclass(frozen=True, kw_only=True)
class DecodedBlock:
    """Rows that were decoded where they were read."""

    decoded: tuple[Row | DataError, ...]

    def rows(self) -> RowStream:
        return iter(self.decoded)


def flatten_verl(row: Row) -> Row:
    """Add the column ``ground_truth`` to a row in verl's layout; others pass unchanged.

    verl nests the answer as ``reward_model.ground_truth``. Its other columns
    (``data_source``, ``extra_info``, ``reward_model``) stay, because verl's reward
    functions ask for them.

    Raises:
        DataError: the row already has another ``ground_truth``.
    """
    nested = row.columns.get("reward_model")
    if not isinstance(nested, Mapping) or "ground_truth" not in nested:
        return row
    truth = nested["ground_truth"]
    if row.columns.get("ground_truth") not in (None, truth):
        raise DataError(
            f"{row.address}: columns 'ground_truth' and 'reward_model.ground_truth' differ; "
            "remove one of them"
        )
    return Row(columns={**row.columns, "ground_truth": truth}, address=row.address)


def listed(names: Iterable[str]) -> str:
    """Return the names of columns as one printable line, at most twenty of them."""
    every = [name if name.isprintable() else repr(name) for name in names]
    more = f" and {len(every) - 20} more" if len(every) > 20 else ""
    return (", ".join(every[:20]) or "none") + more
