"""A teacher's most likely tokens on disk, so that a student learns without a teacher in memory.

Owns the format. Refuses to own who is asked (storing.py) and what is made of the numbers
(algorithms/distill/top_tokens.py). Invariants: a directory under its name is complete, because it
is renamed there at the end; files that were cut, altered or are not a store's are never read; an
example is found by its tokens and its mask, so other data finds nothing.

A store is written beside its place, in a directory of its writer, so that runs which fill one at
the same time, such as the members of a sweep, do not disturb each other: the first to finish puts
its store there, and the others drop theirs.

A store is ``TEACHER.json``, which has the identity, size and hash of all files, and parts in
safetensors. A part has ``examples`` (E, 16), the digests, ``counts`` (E,), how many tokens of each
are compared, and of all of them, one example behind the other, ``ids`` (R, K) and ``logs`` (R, K +
1): the log-probs of the most likely tokens, most likely first, and of all others together.

Legend: E examples of a part, R their compared tokens, K tokens that are kept.
"""

import fcntl
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any, NamedTuple, TextIO

import numpy as np
from blake3 import blake3
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rlpost.algorithms.distill.top_tokens import IDS, LOGS
from rlpost.checkpoint.manifest import (
    FileRecord,
    flushed_files,
    read_proven,
    verify_files,
    write_proven,
)
from rlpost.checkpoint.state import fsync_path
from rlpost.data.example import Example
from rlpost.errors import DataError
from rlpost.umask import follow_umask

FORMAT = 1
MANIFEST = "TEACHER.json"
_DIGEST_BYTES = 16
_WRITING = ".writing"  # ends the name of a directory that is written
_LOCK = "LOCK"  # a file in it, which its writer has locked


class StoredTokens(NamedTuple):
    """What a teacher says of the compared tokens of an example."""

    ids_RK: np.ndarray  # int32
    logs_RB: np.ndarray  # float32, nats


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What decides the numbers of a store, beside its examples.

    Example: ``Identity(teacher="3f2c..", vocabulary="9a41..", top_k=64, temperature=1.0)``
    """

    teacher: str  # fingerprint of its weights
    vocabulary: str  # fingerprint of its tokenizer's
    top_k: int
    temperature: float  # of the distributions

    @property
    def column_bytes(self) -> int:
        """Return what a packed token carries of it: K ids of 8 bytes and K + 1 log-probs of 4."""
        return 12 * self.top_k + 4


def digest_of(example: Example) -> bytes:
    """Return what an example is found by."""
    trained = np.packbits(example.trained).tobytes()
    return blake3(len(example).to_bytes(8, "little") + example.ids.tobytes() + trained).digest(
        _DIGEST_BYTES
    )


class TeacherStore:
    """A store that is read.

    Attributes:
        identity: what decided its numbers.
        path: the teacher's, as it was called.

    Example::

        store = TeacherStore.open(Path("teacher_logits"))
        packed = packed.attach(**store.columns(examples))
    """

    def __init__(
        self,
        *,
        identity: Identity,
        path: str,
        parts: Sequence[Any],
        places: Mapping[bytes, tuple[int, int, int]],
    ) -> None:
        self.identity, self.path = identity, path
        self._parts, self._places = parts, places  # digest -> part, first and last row

    @classmethod
    def open(cls, directory: Path) -> "TeacherStore":
        """Read the index, and every byte to compare the hashes.

        Raises:
            DataError: there is no whole store.
        """
        try:
            body = read_proven(directory / MANIFEST, version=FORMAT)
            files = {name: FileRecord(**record) for name, record in body["files"].items()}
            identity, path = Identity(**body["identity"]), str(body["path"])
            verify_files(directory, files, hashes=True)
            parts = [safe_open(directory / name, framework="numpy") for name in sorted(files)]
            places = {}
            for number, part in enumerate(parts):
                ends = np.cumsum(part.get_tensor("counts"))
                digests = part.get_tensor("examples")
                for row, end in enumerate(ends.tolist()):
                    start = int(ends[row - 1]) if row else 0
                    places[digests[row].tobytes()] = (number, start, end)
        except (
            *(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError),
            SafetensorError,
        ) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{directory} holds no readable store ({error})") from error
        return cls(identity=identity, path=path, parts=parts, places=places)

    def __len__(self) -> int:
        """Examples."""
        return len(self._places)

    def __contains__(self, example: Example) -> bool:
        return digest_of(example) in self._places

    def of(self, example: Example) -> StoredTokens:
        """Return what the teacher says of an example that is there."""
        number, start, end = self._places[digest_of(example)]
        part = self._parts[number]
        return StoredTokens(*(part.get_slice(name)[start:end] for name in ("ids", "logs")))

    def columns(self, examples: Sequence[Example]) -> dict[str, dict[int, np.ndarray]]:
        """Return the columns of an optimizer batch, by the places of the examples."""
        kept = [self.of(each) for each in examples]
        return {
            IDS: {place: each.ids_RK for place, each in enumerate(kept)},
            LOGS: {place: each.logs_RB for place, each in enumerate(kept)},
        }


class StoreWriter:
    """A store that is written beside its place, and put there when it is complete.

    Example::

        with StoreWriter(Path("teacher_logits"), identity=identity, path=teacher) as writer:
            writer.add(examples, kept)
            writer.commit()
    """

    def __init__(self, directory: Path, *, identity: Identity, path: str) -> None:
        self._directory = directory
        self._identity, self._path = identity, path
        self._num_parts = 0

    def __enter__(self) -> "StoreWriter":
        """Begin, without what killed writers left.

        Raises:
            OSError: nothing can be written there.
        """
        place, name = self._directory.parent, self._directory.name
        place.mkdir(parents=True, exist_ok=True)
        for left in place.glob(f".{name}.*{_WRITING}"):
            _remove_unless_written(left)
        lock = None
        while lock is None:  # else another one took it for what a killed writer left
            self._scratch = Path(mkdtemp(prefix=f".{name}.", suffix=_WRITING, dir=place))
            lock = _locked(self._scratch, wait=True)
        self._lock = lock
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._lock.close()

    def add(self, examples: Iterable[Example], kept: Sequence[StoredTokens]) -> None:
        """Write a part.

        Raises:
            OSError: it cannot be written.
        """
        digests = [np.frombuffer(digest_of(each), np.uint8) for each in examples]
        tensors = {
            "examples": np.stack(digests),
            "counts": np.array([len(each.ids_RK) for each in kept], np.int64),
            "ids": np.concatenate([each.ids_RK for each in kept]).astype(np.int32),
            "logs": np.concatenate([each.logs_RB for each in kept]).astype(np.float32),
        }
        save_file(tensors, self._scratch / f"part_{self._num_parts:05d}.safetensors")
        self._num_parts += 1

    def commit(self) -> None:
        """Put the store in its place, unless another writer has put its own there meanwhile.

        Raises:
            OSError: it cannot be written.
        """
        written = flushed_files(self._scratch)
        del written[_LOCK]
        body = {
            "identity": asdict(self._identity),
            "path": self._path,
            "files": {name: asdict(each) for name, each in written.items()},
        }
        write_proven(self._scratch / MANIFEST, body, version=FORMAT)
        follow_umask(self._scratch)
        try:
            os.rename(self._scratch, self._directory)
        except OSError:
            if not (self._directory / MANIFEST).exists():
                raise
        else:
            (self._directory / _LOCK).unlink()
        fsync_path(self._directory.parent)


def _remove_unless_written(scratch: Path) -> None:
    """Remove what a killed writer left; the kernel has released its lock."""
    lock = _locked(scratch, wait=False)
    if lock is not None:
        shutil.rmtree(scratch, ignore_errors=True)  # whoever locks it meanwhile keeps it
        lock.close()


def _locked(scratch: Path, *, wait: bool) -> TextIO | None:
    """Return the lock of a directory that is written.

    None: another process has it, or has removed the directory. A writer may be killed before it
    locks its own, so the file is made by whoever comes first.
    """
    path = scratch / _LOCK
    with ExitStack() as undo, suppress(FileNotFoundError, BlockingIOError):
        lock = undo.enter_context(path.open("a"))
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
            undo.pop_all()
            return lock
    return None
