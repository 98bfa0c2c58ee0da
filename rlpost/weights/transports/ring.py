"""Two buckets that one process of a host fills and others read, each into its own kernels.

Owns the file in the host's shared memory that they meet in, and who waits for whom. Refuses to own
what a bucket holds (buckets.py) and whence it came. Invariants: a bucket stays as it is until every
reader has taken it; a reader that died, or the writer, is noticed at once and not at the deadline;
a file that no process has open is removed by the next one that looks.
"""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rlpost.errors import PushEnded, WeightPushError
from rlpost.weights.deadline import Deadline
from rlpost.weights.transports.host_pages import HostPages
from rlpost.weights.transports.liveness import live_as, lives
from rlpost.weights.transports.shared_memory import shared_memory_directory

MOST_READERS = 512
_CONTROL_BYTES = 8192  # 16 numbers, why it failed, from the middle on what each reader took
_PUSH, _FILLED, _WHY_BYTES = 0, 1, 2  # places of the numbers
_WHY = slice(128, 4096)
_TAKEN = 512  # the place of the first reader's number
_ABSENT = -1
_PAUSE_S = 0.0005
_LOOK_EVERY_S = 0.05  # at who lives


def ring_path(run_id: str, *, sends: bool, directory: Path | None = None) -> Path:
    """Return where the ring of a host is, of whoever sends or of whoever receives for it."""
    end = "sent" if sends else "received"
    return (directory or shared_memory_directory()) / f"rlpost-{run_id}-{end}-buckets"


class RingWriter:
    """The end that fills. Without readers there is no file, and its memory is its own.

    Args:
        path: the file.
        pages: the mappings of this process.
    """

    def __init__(self, path: Path, *, pages: HostPages) -> None:
        self._path, self._pages = path, pages
        self._file: _File | None = None
        self._num_readers = 0

    def begin(self, push: int, *, num_readers: int, slot_bytes: int) -> list[torch.Tensor]:
        """Prepare for the buckets of a push; returns the two slots, none without readers.

        Args:
            push: its number.
            num_readers: how many will read; they are numbered from 0.
            slot_bytes: of each slot; 0: buckets lie elsewhere.

        Raises:
            WeightPushError: the host's shared memory has no room.
        """
        assert num_readers <= MOST_READERS, num_readers
        self._num_readers = num_readers
        if num_readers == 0:
            self.close()
            return []
        if self._file is None or self._file.slot_bytes != slot_bytes or not self._path.exists():
            self.close()
            self._file = _created(self._path, slot_bytes, self._pages)
        numbers = self._file.numbers
        numbers[_PUSH] = 0
        numbers[_TAKEN : _TAKEN + MOST_READERS] = _ABSENT
        numbers[_FILLED : _FILLED + 2] = 0
        numbers[_PUSH] = push
        return self._file.slots

    def fill(self, number: int) -> None:
        """Let readers read bucket ``number``."""
        if self._file is not None and self._num_readers:
            self._file.numbers[_FILLED] = number + 1

    def await_taken(self, number: int, *, deadline: Deadline) -> None:
        """Wait until every reader has taken bucket ``number``; negative ones need no wait.

        Raises:
            WeightPushError: a reader died, or is late; says which.
        """
        if number < 0 or self._file is None or not self._num_readers:
            return
        taken = self._file.numbers[_TAKEN : _TAKEN + self._num_readers]
        _wait(
            lambda: bool((taken > number).all()),
            lambda: self._lost_reader(number),
            deadline=deadline,
            what=lambda: f"{self._late(number)} to take bucket {number}",
        )

    def _late(self, number: int) -> str:
        assert self._file is not None
        taken = self._file.numbers[_TAKEN : _TAKEN + self._num_readers].tolist()
        late = ", ".join(str(reader) for reader, took in enumerate(taken) if took <= number)
        return f"worker {late} of the {self._num_readers} that read on this host"

    def _lost_reader(self, number: int) -> WeightPushError | None:
        assert self._file is not None
        for reader in range(self._num_readers):
            # One that took the bucket may have taken its last.
            reads = _ABSENT < int(self._file.numbers[_TAKEN + reader]) <= number
            if reads and not lives(self._file.descriptor, 1 + reader):
                return WeightPushError(
                    f"worker {reader} of the {self._num_readers} that read on this host is gone"
                )
        return None

    def fail(self, why: str) -> None:
        """Tell readers why they will not get the rest."""
        if self._file is None:
            return
        text = why.encode()[: _WHY.stop - _WHY.start]
        control = self._file.control
        control[_WHY.start : _WHY.start + len(text)] = torch.frombuffer(
            bytearray(text), dtype=torch.uint8
        )
        self._file.numbers[_WHY_BYTES] = len(text)

    def close(self) -> None:
        """Remove the file; who has it open keeps what it maps."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


class RingReader:
    """An end that reads.

    Args:
        path: the file.
        reader: this one's number among the readers.
        deadline: of all buckets together.
        pages: the mappings of this process.
    """

    def __init__(self, path: Path, *, reader: int, deadline: Deadline, pages: HostPages) -> None:
        self._path, self._reader = path, reader
        self._deadline, self._pages = deadline, pages
        self._file: _File | None = None

    def begin(
        self, push: int, *, slot_bytes: int, look: Callable[[], None] = lambda: None
    ) -> list[torch.Tensor]:
        """Wait for the writer to begin this push, and take part in it; returns the two slots.

        Args:
            push: its number.
            slot_bytes: of each slot; 0: buckets lie elsewhere.
            look: called all the while; raises if there is no use in waiting any longer.

        Raises:
            WeightPushError: it did not come.
            RuntimeError: ``look`` says so.
        """
        self.close()  # the writer may have made another file

        def begun() -> bool:
            self._file = _opened(self._path, slot_bytes, self._pages)
            if self._file is not None and int(self._file.numbers[_PUSH]) != push:
                self.close()  # of another push: it may be replaced
            return self._file is not None

        what = f"whoever receives for this host to begin ({self._path.name})"
        _wait(begun, look, deadline=self._deadline, what=lambda: what)
        assert self._file is not None
        live_as(self._file.descriptor, 1 + self._reader)
        self._file.numbers[_TAKEN + self._reader] = 0
        return self._file.slots

    def await_bucket(self, number: int) -> None:
        """Wait until bucket ``number`` can be read.

        Raises:
            PushEnded: the writer failed, and says why; or died.
            WeightPushError: it is silent.
        """
        assert self._file is not None
        numbers = self._file.numbers
        _wait(
            lambda: int(numbers[_FILLED]) > number,
            self._lost_writer,
            deadline=self._deadline,
            what=lambda: f"bucket {number} of whoever receives for this host",
        )

    def _lost_writer(self) -> PushEnded | None:
        assert self._file is not None
        if size := int(self._file.numbers[_WHY_BYTES]):
            said = bytes(self._file.control[_WHY.start : _WHY.start + size].tolist())
            return PushEnded(said.decode(errors="replace"))
        if not lives(self._file.descriptor, 0):
            return PushEnded("whoever received for this host died")
        return None

    def take(self, number: int) -> None:
        """Give bucket ``number`` back."""
        assert self._file is not None
        self._file.numbers[_TAKEN + self._reader] = number + 1

    def close(self) -> None:
        """Let go of the file: to the writer, this reader has died."""
        if self._file is not None:
            self._file.close()
            self._file = None


class _File:
    """The file, open and mapped."""

    def __init__(self, descriptor: int, slot_bytes: int, mapped: HostPages) -> None:
        self.descriptor, self.slot_bytes = descriptor, slot_bytes
        # By the descriptor, because another file may have taken its name.
        pages = mapped.of(Path(f"/proc/self/fd/{descriptor}"), _size(slot_bytes))
        self.control = pages[:_CONTROL_BYTES]
        self.numbers = self.control.view(torch.int64)
        start = _CONTROL_BYTES + slot_bytes
        self.slots = [pages[_CONTROL_BYTES:start], pages[start : start + slot_bytes]]

    def close(self) -> None:
        os.close(self.descriptor)


def _size(slot_bytes: int) -> int:
    return _CONTROL_BYTES + 2 * slot_bytes


def _created(path: Path, slot_bytes: int, pages: HostPages) -> _File:
    remove_unused(path.parent)
    path.unlink(missing_ok=True)  # readers of an earlier one keep what they have mapped
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # it is in use
        live_as(descriptor, 0)
        # Whoever wrote to pages that are not there would be killed.
        os.posix_fallocate(descriptor, 0, _size(slot_bytes))
        return _File(descriptor, slot_bytes, pages)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise WeightPushError(
            f"shared memory at {path.parent} has no room for two buckets of {slot_bytes >> 20} MiB "
            f"({error}); enlarge it or set weights.transport=filesystem"
        ) from error


def _opened(path: Path, slot_bytes: int, pages: HostPages) -> _File | None:
    """Return the file if it is there, whole, and nobody has replaced it meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        status = os.fstat(descriptor)
        if status.st_size == _size(slot_bytes) and os.path.samestat(status, path.stat()):
            return _File(descriptor, slot_bytes, pages)
    except FileNotFoundError:
        pass
    os.close(descriptor)
    return None


def _wait(
    done: Callable[[], bool],
    lost: Callable[[], WeightPushError | None],
    *,
    deadline: Deadline,
    what: Callable[[], str],
) -> None:
    look_s = time.monotonic() + _LOOK_EVERY_S
    while not done():
        now_s = time.monotonic()
        if now_s >= look_s:
            why = lost()
            if why is not None and not done():
                raise why
            deadline.look(what())
            look_s = now_s + _LOOK_EVERY_S
        time.sleep(_PAUSE_S)


def remove_unused(directory: Path | None = None) -> None:
    """Remove every such file that no process has open, of whatever run."""
    for path in (directory or shared_memory_directory()).glob("rlpost-*-buckets"):
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:  # gone meanwhile, or another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except OSError:  # it is in use
            continue
        finally:
            os.close(descriptor)
