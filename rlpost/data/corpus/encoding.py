"""Encodes the rows of a source, block by block, in other processes.

Owns what happens to one block and how blocks are distributed. Refuses to own what tokens a record
becomes (the encoder), and storage (files.py). Invariants: blocks come back in the order of the
source, whatever the number of processes; a few blocks at a time are in memory; a bad row costs
itself only, and is reported.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from rlpost.data.example import Example, ExampleEncoder, RowTooLong
from rlpost.data.formats.reader import RecordReader
from rlpost.data.records import asked
from rlpost.data.rows import Row, RowBlock
from rlpost.data.sources.load import admitted
from rlpost.errors import DataError, InfrastructureError

_BLOCK_DEADLINE_S = 1800  # a block is about 1 MiB of text, or 1024 rows
_BLOCKS_AHEAD = 2  # per process


@dataclass(frozen=True, kw_only=True)
class RowEncoding:
    """How each row of one source is encoded; picklable.

    ``place`` begins all addresses; it is not stored with them.
    """

    reader: RecordReader
    encoder: ExampleEncoder
    place: str

    def block(self, block: RowBlock) -> "EncodedBlock":
        """Encode the rows of a block.

        Raises:
            RowTooLong: a row has too many tokens, and such rows are an error.
            DataError: the source as a whole cannot be read.
        """
        rows: list[_EncodedRow] = []
        skipped: list[str] = []
        for row in admitted(block.rows(), name=self.place):
            try:
                if isinstance(row, DataError):
                    raise row
                rows.append(self._row(row))
            except RowTooLong:
                raise  # which data.on_bad_row does not decide about
            except DataError as error:
                skipped.append(str(error))
        return EncodedBlock.of(rows, skipped=[each.removeprefix(self.place) for each in skipped])

    def _row(self, row: Row) -> "_EncodedRow":
        record = self.reader.read(row)
        examples = self.encoder.encode(record)
        assert examples, row.address
        for example in examples:
            if not example.trained.any():
                raise DataError(
                    f"{row.address}: no token of the row is trained, so there is nothing to learn"
                )
        content = _hash(row.columns)
        prompt = [dict(each) for each in asked(record)]
        return _EncodedRow(
            examples=examples,
            content=content,
            asked=_hash(prompt) if prompt else content,
            address=row.address.removeprefix(self.place),
        )


@dataclass(frozen=True, kw_only=True)
class _EncodedRow:
    examples: list[Example]
    content: int
    asked: int
    address: str


@dataclass(frozen=True, kw_only=True)
class EncodedBlock:
    """The good rows of a block. N rows, E examples, T tokens and L labels of all examples."""

    ids_T: npt.NDArray[np.int32]
    trained_T: npt.NDArray[np.bool_]
    lengths_E: npt.NDArray[np.int64]
    labels_L: npt.NDArray[np.float32]
    num_labels_E: npt.NDArray[np.int64]
    examples_N: npt.NDArray[np.int64]  # examples of each row
    content_N: npt.NDArray[np.uint64]  # hash of each row's columns
    asked_N: npt.NDArray[np.uint64]  # hash of each row's prompt; without one, of its columns
    addresses: tuple[str, ...]  # N, without the place
    skipped: tuple[str, ...]  # address without the place, and why the row was left out

    @classmethod
    def of(cls, rows: Sequence[_EncodedRow], *, skipped: Sequence[str]) -> "EncodedBlock":
        examples = [example for row in rows for example in row.examples]
        return cls(
            ids_T=np.concatenate([np.empty(0, np.int32), *(e.ids for e in examples)]),
            trained_T=np.concatenate([np.empty(0, np.bool_), *(e.trained for e in examples)]),
            lengths_E=np.array([len(example) for example in examples], np.int64),
            labels_L=np.concatenate([np.empty(0, np.float32), *(e.labels for e in examples)]),
            num_labels_E=np.array([len(example.labels) for example in examples], np.int64),
            examples_N=np.array([len(row.examples) for row in rows], np.int64),
            content_N=np.array([row.content for row in rows], np.uint64),
            asked_N=np.array([row.asked for row in rows], np.uint64),
            addresses=tuple(row.address for row in rows),
            skipped=tuple(skipped),
        )


def _hash(plain: Any) -> int:
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False)
    return int.from_bytes(blake3(text.encode()).digest(8), "big")


def encoded_blocks(
    blocks: Iterator[RowBlock], encoding: RowEncoding, *, workers: int | None
) -> Iterator[EncodedBlock]:
    """Yield the encoded blocks in their order.

    Args:
        blocks: all rows of the source; read as the result is consumed.
        encoding: how a row is encoded.
        workers: processes; None: one for each processor, but none for a source of one block,
            which is done before a process would have started; 0: this process.

    Raises:
        DataError: the source as a whole cannot be read.
        InfrastructureError: a process died or hangs.
    """
    start = tuple(islice(blocks, 2))
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if len(start) > 1 else 0
    everything = chain(start, blocks)
    if workers == 0:
        yield from map(encoding.block, everything)
        return
    sys.stderr.write(f"encoding {encoding.place}, only this once ({workers} processes)\n")
    executor = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),  # a fork would copy locks of threads
        initializer=_start_worker,
        initargs=(encoding,),
    )
    try:
        yield from _in_order(executor, everything, ahead=workers * _BLOCKS_AHEAD)
    finally:
        executor.shutdown(cancel_futures=True)


def _in_order(
    executor: ProcessPoolExecutor, blocks: Iterator[RowBlock], *, ahead: int
) -> Iterator[EncodedBlock]:
    waiting: deque[Future[EncodedBlock]] = deque()
    try:
        for block in blocks:
            waiting.append(executor.submit(_encode, block))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise InfrastructureError(
            "a process that encodes data died, or needed more than "
            f"{_BLOCK_DEADLINE_S} s for a few rows; set data.workers=1 if memory is short, and "
            "data.workers=0 to encode in this process and see where it fails. A script that starts "
            "a run must do so below `if __name__ == '__main__':`"
        ) from error


_encoding: RowEncoding | None = None  # of this worker process


def _start_worker(encoding: RowEncoding) -> None:
    global _encoding
    _encoding = encoding
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent dies, which leaves it waiting for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _encode(block: RowBlock) -> EncodedBlock:
    assert _encoding is not None
    signal.alarm(_BLOCK_DEADLINE_S)  # its default ends the process, whatever the process does
    try:
        return _encoding.block(block)
    finally:
        signal.alarm(0)
