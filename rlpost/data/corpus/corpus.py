"""One source of data, encoded once and read from a cache on disk.

Owns the key of the cache, the choice of rows (bad, long, held out) and reading them. Refuses to own
order (mixture.py). Invariants: the key changes with the content of the source, the format it is
read in, the encoder and the layout; nothing is left out silently (``skipped``); what a killed
process leaves is never read.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rlpost.cache import cached
from rlpost.data.bad_rows import OnBadRow, OnLong
from rlpost.data.corpus.encoding import EncodedBlock, RowEncoding, encoded_blocks
from rlpost.data.corpus.files import VERSION, CorpusFiles, open_corpus, write_corpus
from rlpost.data.example import Example, ExampleEncoder
from rlpost.data.formats.reader import RecordReader
from rlpost.data.rows import RowBlock, StoredRows
from rlpost.data.sources.load import admitted
from rlpost.errors import DataError

_BLOCKS_TO_SETTLE = 8


@dataclass(frozen=True, kw_only=True)
class CorpusRules:
    """Which rows of a source are used.

    ``max_tokens`` bounds each example; None: no bound. For errors: ``option`` is where these
    options are, and ``more_tokens`` says how longer examples would fit.
    """

    on_bad_row: OnBadRow = OnBadRow.error
    max_tokens: int | None = None
    on_long: OnLong = OnLong.error
    option: str = "data"
    more_tokens: str = "raise data.max_tokens"


class Corpus:
    """The usable rows of one source, as examples.

    Attributes:
        name: of the source.
        key: identity of all rows as they are stored, used or not.
        fingerprint: identity of all tokens and of which rows are used, wherever the files are.
        skipped: address and reason of every row that was left out.
        lengths_N: tokens of each row, all its examples together.
    """

    def __init__(
        self,
        files: CorpusFiles,
        *,
        name: str,
        place: str,
        key: str,
        rows_N: npt.NDArray[np.int64],
        max_tokens: int | None,
        skipped: tuple[str, ...],
    ) -> None:
        self._files = files
        self._place = place
        self.key = key
        self._rows_N = rows_N
        self._max_tokens = max_tokens
        self.name = name
        rows = hashlib.sha256(rows_N.tobytes()).hexdigest()
        self.fingerprint = _digest([key, rows, max_tokens])
        self.skipped = skipped
        self.lengths_N = _row_lengths(files, max_tokens)[rows_N]

    def __len__(self) -> int:
        return len(self._rows_N)

    def examples(self, row: int, *, uid: str = "") -> list[Example]:
        """Return the examples of row ``row``, usually one; a pair has two, the chosen one first."""
        stored = int(self._rows_N[row])
        address = self._place + self._files.address_of(stored)
        found = []
        for number in self._files.examples_of(stored):
            where, labels = self._files.tokens_of(number), self._files.labels_of(number)
            if self._max_tokens is not None:
                where = slice(where.start, min(where.stop, where.start + self._max_tokens))
            found.append(
                Example(
                    ids=np.array(self._files.ids_T[where]),
                    trained=np.array(self._files.trained_T[where]),
                    address=address,
                    uid=uid,
                    labels=np.array(self._files.labels_L[labels]),
                )
            )
        return found

    def all_examples(self) -> list[Example]:
        """Return the examples of all rows, in their stored order."""
        return [each for row in range(len(self)) for each in self.examples(row)]

    def all_labels(self) -> npt.NDArray[np.float32]:
        """Return the labels of all rows, one behind the other."""
        found = [np.empty(0, np.float32)]
        for stored in self._rows_N.tolist():
            for number in self._files.examples_of(stored):
                found.append(self._files.labels_L[self._files.labels_of(number)])
        return np.concatenate(found)

    def split(self, heldout_fraction: float) -> tuple["Corpus", "Corpus"]:
        """Return the rows to train on and those held out, by the hash of each row's prompt.

        Rows with the same prompt are on the same side, and a row stays on its side when others are
        added. Rows without a prompt are told apart by their columns.
        """
        asked_N = self._asked()
        held_N = asked_N.astype(np.float64) < heldout_fraction * 2.0**64
        return (
            self._of(self._rows_N[~held_N]),
            self._of(self._rows_N[held_N]),
        )

    def first(self, num_rows: int) -> "Corpus":
        """Return the first rows, at most so many."""
        return self._of(self._rows_N[:num_rows])

    def within(self, others: Iterable["Corpus"]) -> bool:
        """Whether each row is also in one of the others, by the hash of its columns."""
        content_N = self._contents()
        known_N = np.concatenate([np.empty(0, np.uint64), *(each._contents() for each in others)])
        return bool(np.isin(content_N, known_N).all())

    def num_asked_in(self, others: Iterable["Corpus"]) -> int:
        """Return how many rows have a prompt that is also in one of the others."""
        known_N = np.concatenate([np.empty(0, np.uint64), *(each._asked() for each in others)])
        return int(np.isin(self._asked(), known_N).sum())

    def _contents(self) -> npt.NDArray[np.uint64]:
        return np.asarray(self._files.content_N[self._rows_N])

    def _asked(self) -> npt.NDArray[np.uint64]:
        return np.asarray(self._files.asked_N[self._rows_N])

    def _of(self, rows_N: npt.NDArray[np.int64]) -> "Corpus":
        return Corpus(
            self._files,
            name=self.name,
            place=self._place,
            key=self.key,
            rows_N=rows_N,
            max_tokens=self._max_tokens,
            skipped=self.skipped,
        )


def load_corpus(
    stored: StoredRows,
    *,
    name: str,
    reader: RecordReader,
    encoder: ExampleEncoder,
    rules: CorpusRules,
    workers: int | None = None,
) -> Corpus:
    """Encode the rows of a source, or take them from the cache, and apply the rules.

    Args:
        stored: the rows, as ``find_rows`` returns them.
        name: of the source.
        reader: how a row becomes a record.
        encoder: how a record becomes examples.
        rules: which rows are used.
        workers: processes that encode; see ``encoded_blocks``.

    Raises:
        DataError: a row is bad or too long (unless skipped), or no row is left.
        UserError: the cache cannot be used.
        InfrastructureError: a process that encodes died or hangs.
    """
    reader.check()
    place, strict = stored.place, rules.on_bad_row is OnBadRow.error
    read = [reader.format, sorted(reader.columns.items()), [k.__name__ for k in reader.accepts]]
    key = _digest([VERSION, stored.identity(), encoder.fingerprint, read])

    def write(target: Path) -> None:
        blocks, settled = _settled(stored.blocks, reader, place=place)
        encoding = RowEncoding(reader=settled, encoder=encoder, place=place)
        encoded = encoded_blocks(blocks, encoding, workers=workers)
        write_corpus(target, _strict(encoded, place=place) if strict else encoded)

    files = open_corpus(cached("corpora", key, write=write))
    if files.skipped and strict:
        raise DataError(place + files.skipped[0])
    return _ruled(files, rules, name=name, place=place, key=key)


def _settled(
    blocks: Iterator[RowBlock], reader: RecordReader, *, place: str
) -> tuple[Iterator[RowBlock], RecordReader]:
    """Return all blocks, and the reader with the format of the first row that has one.

    Raises:
        DataError: none of many rows has a format.
    """
    if reader.format is not None:
        return blocks, reader
    seen: list[RowBlock] = []
    for block in islice(blocks, _BLOCKS_TO_SETTLE):
        seen.append(block)
        found = reader.settled(admitted(block.rows(), name=place))
        if found.format is not None:
            return chain(seen, blocks), found
    for row in chain.from_iterable(admitted(block.rows(), name=place) for block in seen):
        if isinstance(row, DataError):
            raise row
        reader.read(row)
    return iter(seen), reader


def _strict(blocks: Iterator[EncodedBlock], *, place: str) -> Iterator[EncodedBlock]:
    """Raises DataError: a row is bad."""
    for block in blocks:
        if block.skipped:
            raise DataError(place + block.skipped[0])
        yield block


def _ruled(files: CorpusFiles, rules: CorpusRules, *, name: str, place: str, key: str) -> Corpus:
    """Raises DataError: a row is too long, unless it is skipped or cut, or no row is left."""
    skipped = [place + each for each in files.skipped]
    good_N = np.ones(len(files.row_ends_N), np.bool_)
    for row in _long_rows(files, rules.max_tokens):
        reason = _too_long(files, row, rules, place=place)
        if reason is None:
            continue
        if rules.on_long is OnLong.error:
            raise DataError(reason)
        good_N[row] = False
        skipped.append(reason)
    if not good_N.any():
        why = (
            f"all {len(skipped)} rows were skipped, first: {skipped[0]}"
            if skipped
            else "it has no rows"
        )
        raise DataError(f"{place}: no usable row: {why}")
    longest = int(_lengths(files.example_ends_E).max())
    cuts = rules.max_tokens is not None and longest > rules.max_tokens
    return Corpus(
        files,
        name=name,
        place=place,
        key=key,
        rows_N=np.flatnonzero(good_N).astype(np.int64),
        max_tokens=rules.max_tokens if cuts else None,
        skipped=tuple(skipped),
    )


def _long_rows(files: CorpusFiles, max_tokens: int | None) -> list[int]:
    if max_tokens is None:
        return []
    long_E = np.flatnonzero(_lengths(files.example_ends_E) > max_tokens)
    return sorted(set(np.searchsorted(files.row_ends_N, long_E, side="right").tolist()))


def _too_long(files: CorpusFiles, row: int, rules: CorpusRules, *, place: str) -> str | None:
    """Return why a row with a long example cannot be used; None if its end can be cut off."""
    assert rules.max_tokens is not None
    spans = [files.tokens_of(number) for number in files.examples_of(row)]
    longest = max(span.stop - span.start for span in spans)
    said = f"{place}{files.address_of(row)}: the row has {longest} tokens, at most "
    said += f"{rules.max_tokens} fit"
    if rules.on_long is not OnLong.truncate:
        return (
            f"{said}; shorten it, {rules.more_tokens}, or set {rules.option}.on_long=skip or "
            "truncate"
        )
    cut = [slice(span.start, span.start + rules.max_tokens) for span in spans]
    if all(files.trained_T[each].any() for each in cut):
        return None
    return f"{said}, and none of the first {rules.max_tokens} is trained"


def _lengths(ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.diff(ends, prepend=0)


def _row_lengths(files: CorpusFiles, max_tokens: int | None) -> npt.NDArray[np.int64]:
    lengths_E = _lengths(files.example_ends_E)
    if max_tokens is not None:
        lengths_E = np.minimum(lengths_E, max_tokens)
    ends_E = np.cumsum(lengths_E)
    return _lengths(ends_E[files.row_ends_N - 1]) if len(ends_E) else lengths_E


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
