"""The memory of a model that waits, moved one tier down and back.

Owns the move: from a GPU to the host, on a CPU to a file. Refuses to own when (stages/) and
whose. Invariants: every byte comes back as it left; a move that fails leaves all in memory.
Storages are emptied and filled again, never replaced, so that weights which are views into
ZeRO's flat buffers stay views.
"""

import ctypes
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rlpost.training.freed_memory import give_back
from rlpost.training.pinned_memory import PIECE_BYTES, NotPinned, pinned_pieces

log = logging.getLogger(__name__)

MIN_BYTES = 1 << 12  # smaller storages stay: step counters and the like
_OWNERS = "deepspeed."  # whose objects are searched for tensors, beside modules and optimizers


class Parking:
    """Example::

        parking = Parking(model, device=torch.device("cpu"), frozen=True)
        parking.park()   # the weights are in a file now
        parking.wake()   # and here they are again

    Args:
        *owners: modules, optimizers and containers whose tensors belong to the model.
        device: where the model works.
        frozen: its bytes never change: they are written once.
    """

    def __init__(self, *owners: Any, device: torch.device, frozen: bool = False) -> None:
        self._owners, self._device, self._frozen = owners, device, frozen
        self._shelf: Shelf = FileShelf() if device.type == "cpu" else HostShelf()
        self._parked: list[tuple[torch.UntypedStorage, int]] = []
        self._shelved: list[torch.UntypedStorage] = []  # whose bytes the shelf holds

    def park(self) -> int:
        """Free the model's memory; returns how many bytes, 0 when there was no room below."""
        if self._parked:
            return sum(size for _, size in self._parked)
        if not (self._frozen and self._shelved):
            self._shelve()
        self._parked = [(storage, storage.nbytes()) for storage in self._shelved]
        for storage in self._shelved:
            storage.resize_(0)
        give_back(self._device)
        return sum(size for _, size in self._parked)

    def _shelve(self) -> None:
        storages, self._shelved = _storages(self._owners, self._device), []
        try:
            self._shelf.put([_bytes_of(storage) for storage in storages])
        except (OSError, NotPinned) as error:
            log.warning("an idle model stays in memory, there is no room to move it: %s", error)
        else:
            self._shelved = storages

    def wake(self) -> None:
        """Bring back what was parked; nothing happens when nothing was."""
        if not self._parked:
            return
        for storage, size in self._parked:
            storage.resize_(size)
        self._shelf.get([_bytes_of(storage) for storage, _ in self._parked])
        self._parked = []
        if not self._frozen:
            # Not kept: what its owner replaces meanwhile must not live on because of us.
            self._shelved = []
            self._shelf.clear()


class Shelf(Protocol):
    """One tier down."""

    def put(self, blocks: list[Tensor]) -> None:
        """Keep a copy of ``blocks``, bytes on the device, in place of what was there.

        Raises:
            OSError: there is no room in a file.
            NotPinned: there is none in pinned memory.
        """

    def get(self, blocks: list[Tensor]) -> None:
        """Fill ``blocks``, of the same sizes, with what was put."""

    def clear(self) -> None:
        """Forget what was put, where that frees anything."""


class FileShelf:
    """In an unnamed file of the temporary directory, which vanishes with the process."""

    def __init__(self) -> None:
        self._file: Any = None  # opened when it is needed first, then for life

    def put(self, blocks: list[Tensor]) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._file.seek(0)
        try:
            for block in blocks:
                _whole(self._file.write, block)
        except OSError:
            self.clear()  # others need the room that is left
            raise

    def get(self, blocks: list[Tensor]) -> None:
        self._file.seek(0)
        for block in blocks:
            _whole(self._file.readinto, block)

    def clear(self) -> None:
        if self._file is not None:
            self._file.truncate(0)


class HostShelf:
    """In pinned host memory, which is kept for the next time."""

    def __init__(self) -> None:
        self._pieces: list[Tensor] = []

    def put(self, blocks: list[Tensor]) -> None:
        missing = sum(block.numel() for block in blocks) - len(self._pieces) * PIECE_BYTES
        self._pieces += pinned_pieces(
            missing, purpose="a model that waits", way_out="set cluster.offload_idle=false"
        )
        torch.cuda.synchronize()  # gathers of other streams included
        for piece, part in side_by_side(self._pieces, blocks):
            piece.copy_(part, non_blocking=True)
        torch.cuda.synchronize()

    def get(self, blocks: list[Tensor]) -> None:
        for piece, part in side_by_side(self._pieces, blocks):
            part.copy_(piece, non_blocking=True)
        torch.cuda.synchronize()

    def clear(self) -> None:
        pass


def side_by_side(pieces: list[Tensor], blocks: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Lay ``blocks`` end to end over pieces of one size; yields views of equal length."""
    at = 0
    for block in blocks:
        done = 0
        while done < block.numel():
            piece, offset = pieces[at // pieces[0].numel()], at % pieces[0].numel()
            length = min(piece.numel() - offset, block.numel() - done)
            yield piece[offset : offset + length], block[done : done + length]
            done, at = done + length, at + length


def _whole(transfer: Callable[[memoryview], int | None], block: Tensor) -> None:
    """Read or write all of ``block``: a single call moves at most 2 GiB."""
    # Not block.numpy(): torch never empties a storage that numpy has seen.
    size, address = block.numel(), block.data_ptr()
    view = memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")
    done = 0
    while done < len(view):
        moved = transfer(view[done:])
        if not moved:
            raise OSError(f"{len(view) - done} bytes of a parked model could not be moved")
        done += moved


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _storages(owners: tuple[Any, ...], device: torch.device) -> list[torch.UntypedStorage]:
    """What the owners' tensors lie in, each once, in a stable order."""
    found: dict[int, torch.UntypedStorage] = {}
    for tensor in _tensors(owners):
        storage = tensor.untyped_storage()
        # Not those that lie in mapped files or shared memory: they are not private memory.
        if tensor.device == device and storage.nbytes() >= MIN_BYTES and storage.resizable():
            found.setdefault(storage.data_ptr(), storage)
    return list(found.values())


def _tensors(owners: tuple[Any, ...]) -> Iterator[Tensor]:
    """Every tensor that can be reached from the owners, with gradients and attributes."""
    waiting, seen = list(owners), set[int]()
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            yield thing
            if thing.is_leaf and thing.grad is not None:
                waiting.append(thing.grad)
            waiting.extend(vars(thing).values())  # ZeRO-3 keeps a rank's part there
        elif isinstance(thing, Mapping):
            waiting.extend(thing.values())
        elif isinstance(thing, list | tuple | set):
            waiting.extend(thing)
        elif isinstance(thing, nn.Module | torch.optim.Optimizer) or (
            type(thing).__module__.startswith(_OWNERS)
        ):
            waiting.extend(getattr(thing, "__dict__", {}).values())
