"""The files of an encoded source: flat arrays that are mapped into memory.

Owns their layout and the check that they are whole. Refuses to own what is in them (encoding.py)
and where they lie (corpus.py). Invariant: a directory with ``corpus.json`` whose sizes match is
complete, because that file is written last.

N rows, E examples, T tokens, L labels; an ``ends`` array holds where each part of a flat one ends.
"""

import json
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rlpost.data.corpus.encoding import EncodedBlock
from rlpost.errors import DataError

VERSION = 4  # of the layout and of the code that fills it; another one is encoded again
_ARRAYS = {
    "ids_T": np.int32,
    "trained_T": np.bool_,
    "example_ends_E": np.int64,
    "labels_L": np.float32,
    "label_ends_E": np.int64,
    "row_ends_N": np.int64,  # in examples
    "content_N": np.uint64,
    "asked_N": np.uint64,
    "addresses": np.uint8,  # UTF-8
    "address_ends_N": np.int64,
}
_SUMMARY = "corpus.json"


@dataclass(frozen=True, kw_only=True)
class CorpusFiles:
    """The opened files of one source."""

    ids_T: npt.NDArray[np.int32]
    trained_T: npt.NDArray[np.bool_]
    example_ends_E: npt.NDArray[np.int64]
    labels_L: npt.NDArray[np.float32]
    label_ends_E: npt.NDArray[np.int64]
    row_ends_N: npt.NDArray[np.int64]
    content_N: npt.NDArray[np.uint64]
    asked_N: npt.NDArray[np.uint64]
    addresses: npt.NDArray[np.uint8]
    address_ends_N: npt.NDArray[np.int64]
    skipped: tuple[str, ...]

    def examples_of(self, row: int) -> range:
        """Return the numbers of the examples of a row."""
        return range(_start(self.row_ends_N, row), int(self.row_ends_N[row]))

    def tokens_of(self, example: int) -> slice:
        """Return where the tokens of an example lie."""
        return slice(_start(self.example_ends_E, example), int(self.example_ends_E[example]))

    def labels_of(self, example: int) -> slice:
        """Return where the labels of an example lie."""
        return slice(_start(self.label_ends_E, example), int(self.label_ends_E[example]))

    def address_of(self, row: int) -> str:
        """Return the address of a row without the place of its source."""
        start, end = _start(self.address_ends_N, row), int(self.address_ends_N[row])
        return self.addresses[start:end].tobytes().decode()


def _start(ends: npt.NDArray[np.int64], index: int) -> int:
    return int(ends[index - 1]) if index else 0


def write_corpus(directory: Path, blocks: Iterable[EncodedBlock]) -> None:
    """Write all blocks as they come."""
    skipped: list[str] = []
    ends = {name: 0 for name in _ARRAYS if "_ends_" in name}
    with ExitStack() as stack:
        files = {name: stack.enter_context((directory / name).open("wb")) for name in _ARRAYS}

        def append(name: str, values: npt.NDArray[Any]) -> None:
            files[name].write(np.ascontiguousarray(values, _ARRAYS[name]).data)

        def append_ends(name: str, lengths: npt.NDArray[np.int64]) -> None:
            values = ends[name] + np.cumsum(lengths)
            ends[name] = int(values[-1]) if len(values) else ends[name]
            append(name, values)

        for block in blocks:
            addresses = [address.encode() for address in block.addresses]
            append("ids_T", block.ids_T)
            append("trained_T", block.trained_T)
            append_ends("example_ends_E", block.lengths_E)
            append("labels_L", block.labels_L)
            append_ends("label_ends_E", block.num_labels_E)
            append_ends("row_ends_N", block.examples_N)
            append("content_N", block.content_N)
            append("asked_N", block.asked_N)
            append("addresses", np.frombuffer(b"".join(addresses), np.uint8))
            append_ends("address_ends_N", np.array([len(each) for each in addresses], np.int64))
            skipped += block.skipped
        sizes_bytes = {name: file.tell() for name, file in files.items()}
    summary = {"version": VERSION, "sizes_bytes": sizes_bytes, "skipped": skipped}
    (directory / _SUMMARY).write_text(json.dumps(summary))


def open_corpus(directory: Path) -> CorpusFiles:
    """Map the files of a directory into memory.

    Raises:
        DataError: a file is missing or has another size than when it was written.
    """
    try:
        summary = json.loads((directory / _SUMMARY).read_text())
        sizes_bytes = {name: (directory / name).stat().st_size for name in _ARRAYS}
    except (OSError, json.JSONDecodeError) as error:
        raise _damaged(directory, str(error)) from error
    for name, size in sizes_bytes.items():
        if summary["sizes_bytes"].get(name) != size:
            raise _damaged(directory, f"{name} has {size} bytes")
    arrays = {name: _mapped(directory / name, kind) for name, kind in _ARRAYS.items()}
    return CorpusFiles(**arrays, skipped=tuple(summary["skipped"]))


def _damaged(directory: Path, what: str) -> DataError:
    return DataError(
        f"{directory}: the encoded data in the cache is damaged ({what}); remove this directory, "
        "and it is encoded again"
    )


def _mapped(path: Path, kind: Any) -> npt.NDArray[Any]:
    if path.stat().st_size == 0:  # which cannot be mapped
        return np.empty(0, kind)
    return np.memmap(path, kind, mode="r")
