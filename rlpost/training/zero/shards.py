"""Tensors in the safetensors files of several writers, each of which may hold a part of one.

Owns the files ``state_<writer>_<number>.safetensors`` of a directory: what they are called, how
large they get, and where in a tensor a part belongs (in the file's metadata). Refuses to own what
the tensors mean (deepspeed_checkpoint.py). Invariant: a tensor that passes ``check`` is there from
its first element to its last, each once.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlpost.errors import DataError, UserError
from rlpost.umask import follow_umask

SHARD_BYTES = 2**30
_PARTS = "parts"  # name of the metadata


@dataclass(frozen=True, kw_only=True)
class TensorPart:
    """Where the elements of a flat tensor belong in a whole one.

    Example: ``TensorPart(start=64, shape=(12, 8))`` of the last 32 elements of 96.
    """

    start: int
    shape: tuple[int, ...]  # of the whole tensor


def write_shards(
    tensors: Mapping[str, Tensor], parts: Mapping[str, TensorPart], directory: Path, *, writer: int
) -> None:
    """Write one writer's tensors in files of about ``SHARD_BYTES``; nothing is flushed.

    Args:
        tensors: by name, contiguous.
        parts: which of the tensors are parts, and where they belong; the others are whole.
        directory: where to.
        writer: its number.

    Raises:
        OSError: the disk refuses.
    """
    for number, shard in enumerate(_shards(tensors)):
        places = {name: [parts[name].start, parts[name].shape] for name in shard if name in parts}
        metadata = {_PARTS: json.dumps(places)} if places else None
        path = directory / f"state_{writer:03d}_{number:03d}.safetensors"
        write_file(shard, path, metadata=metadata)


def write_file(
    tensors: Mapping[str, Tensor], path: Path, *, metadata: dict[str, str] | None = None
) -> None:
    """Write one safetensors file.

    Raises:
        OSError: the disk refuses.
    """
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        # Nothing but the disk can refuse named plain tensors, and its errno is hidden here.
        raise OSError(str(error)) from error
    follow_umask(path)  # it is the writer's alone until here, and the driver may be another user


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    if shard:
        yield shard


class Shards:
    """The tensors of all such files of a directory, read lazily.

    Example: ``Shards(path).read("score.weight.master", (0, 32))``

    Raises:
        DataError: a file is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stored: dict[str, list[_Stored]] = {}
        for path in sorted(directory.glob("state_*.safetensors")):
            for name, stored in _stored_in(path):
                self._stored.setdefault(name, []).append(stored)
        for pieces in self._stored.values():
            pieces.sort(key=lambda piece: piece.start)

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises DataError or UserError unless there are these tensors and no others, whole."""
        missing = sorted(shapes.keys() - self._stored.keys())
        if missing:
            raise DataError(
                f"{self._directory}: lacks {missing[0]!r} and {len(missing) - 1} others of "
                f"{len(shapes)} tensors; a file is missing, or it is the state of another model"
            )
        others = sorted(self._stored.keys() - shapes.keys())
        if others:
            raise UserError(
                f"{self._directory}: holds {others[0]!r}, which this model has not, so it is the "
                "state of another model; resume with the model it was trained from"
            )
        for name, shape in shapes.items():
            self._check_one(name, shape)

    def _check_one(self, name: str, shape: tuple[int, ...]) -> None:
        end = 0
        for piece in self._stored[name]:
            if piece.shape != shape:
                raise UserError(
                    f"{self._directory}: {name!r} has shape {piece.shape}, this model's has "
                    f"{shape}; resume with the model it was trained from"
                )
            if piece.start != end:
                break
            end = piece.stop
        else:
            if end == torch.Size(shape).numel():
                return
        raise DataError(
            f"{self._directory}: of {name!r} the elements from {end} on are not in one place; a "
            "file is missing, or one of another checkpoint is among them"
        )

    def read(self, name: str, part: tuple[int, int] | None) -> Tensor:
        """Return elements ``[start, stop)`` of a flattened tensor, reading only their rows."""
        pieces = self._stored[name]
        start, stop = part or (0, pieces[-1].stop)
        found = [
            piece.read(max(start, piece.start), min(stop, piece.stop))
            for piece in pieces
            if piece.start < stop and start < piece.stop
        ]
        return found[0] if len(found) == 1 else torch.cat(found)


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A tensor of a file: elements ``[start, stop)`` of one of ``shape``."""

    name: str
    file: Any  # safetensors'
    start: int
    stop: int
    shape: tuple[int, ...]

    def read(self, start: int, stop: int) -> Tensor:
        """Return elements ``[start, stop)`` of the whole tensor, which are here."""
        rows = self.file.get_slice(self.name)
        form = torch.Size(rows.get_shape())
        if not form:
            return rows[...].reshape(-1)
        start, stop, width = start - self.start, stop - self.start, form[1:].numel()
        first = start // width
        values = rows[first : -(-stop // width)].reshape(-1)
        return values[start - first * width : stop - first * width]


def _stored_in(path: Path) -> Iterator[tuple[str, _Stored]]:
    try:
        file = safe_open(path, framework="pt")
        places = json.loads((file.metadata() or {}).get(_PARTS, "{}"))
        for name in file.keys():  # noqa: SIM118
            form = tuple(file.get_slice(name).get_shape())
            start, shape = places.get(name, (0, form))
            stop = start + torch.Size(form).numel()
            yield name, _Stored(name=name, file=file, start=start, stop=stop, shape=tuple(shape))
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a readable safetensors file ({error})") from error
