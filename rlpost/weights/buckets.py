"""A payload in buckets, which are sent, verified and loaded one after the other.

Owns which tensors a bucket holds, how they lie in it and its header. Refuses to own checksums and
how a bucket travels (transports/). Invariants: sender and receivers divide a manifest alike, so
nothing but bytes and a header crosses; a bucket holds whole tensors, because kernels take nothing
less; what passes ``verify`` is byte for byte the bucket of that number of that push.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch

from rlpost.errors import WeightPushError
from rlpost.weights.manifest import (
    ALIGNMENT_BYTES,
    PushManifest,
    TensorEntry,
    Tensors,
    aligned,
    bytes_of,
    copy_bytes,
    view_of,
)

Checksum = Callable[[torch.Tensor], tuple[int, int]]  # of contiguous uint8
NamedTensors = Iterator[tuple[str, torch.Tensor]]

_GIVEN_UP = -1  # the number of a bucket that its sender could not fill
_HEADER_BYTES = ALIGNMENT_BYTES


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Consecutive tensors of a payload; its header follows them.

    Example: ``Bucket(number=0, entries=(TensorEntry(name="model.norm.weight", ...),))``
    """

    number: int
    entries: tuple[TensorEntry, ...]

    @property
    def start(self) -> int:
        return self.entries[0].offset

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors, and of the gaps between them."""
        return self.entries[-1].offset + self.entries[-1].size_bytes - self.start

    @property
    def sent_bytes(self) -> int:
        """Bytes with the header."""
        return aligned(self.size_bytes) + _HEADER_BYTES


def divide(manifest: PushManifest, *, most_bytes: int) -> list[Bucket]:
    """Return a payload's tensors in order, in buckets of at most ``most_bytes``.

    A tensor that is larger has a bucket of its own.
    """
    starts = [0]
    for at, entry in enumerate(manifest.entries):
        first = manifest.entries[starts[-1]].offset
        if at > starts[-1] and entry.offset + entry.size_bytes - first > most_bytes:
            starts.append(at)
    bounds = pairwise([*starts, len(manifest.entries)])
    return [
        Bucket(number=number, entries=manifest.entries[first:last])
        for number, (first, last) in enumerate(bounds)
        if last > first
    ]


def slot_bytes(buckets: list[Bucket]) -> int:
    """Return how large memory must be that holds any one of the buckets."""
    return max((bucket.sent_bytes for bucket in buckets), default=_HEADER_BYTES)


def pack(bucket: Bucket, tensors: NamedTensors, slot: torch.Tensor) -> None:
    """Copy the next tensors into a slot (uint8).

    Raises:
        WeightPushError: what comes is not what was announced.
    """
    for entry in bucket.entries:
        name, tensor = next(tensors, ("nothing", torch.empty(0)))
        kind = str(tensor.dtype).removeprefix("torch.")
        if (name, kind, tuple(tensor.shape)) != (entry.name, entry.dtype, entry.shape):
            raise WeightPushError(
                f"{entry.name} ({entry.dtype} {entry.shape}) was announced, and the trainer gave "
                f"{name} ({kind} {tuple(tensor.shape)})"
            )
        start = entry.offset - bucket.start
        copy_bytes(bytes_of(tensor.detach()), slot[start : start + entry.size_bytes])


def seal(bucket: Bucket, slot: torch.Tensor, *, push: int, checksum: Checksum) -> None:
    """Write the header of a bucket that was packed."""
    sums = checksum(slot[: bucket.size_bytes])
    _header(bucket, slot).copy_(torch.tensor([bucket.number, push, *sums], dtype=torch.int64))


def give_up(bucket: Bucket, slot: torch.Tensor, *, push: int) -> None:
    """Write the header that tells receivers, who wait for this bucket, that there is none."""
    _header(bucket, slot).copy_(torch.tensor([_GIVEN_UP, push, 0, 0], dtype=torch.int64))


def was_given_up(bucket: Bucket, slot: torch.Tensor) -> bool:
    """Whether the sender could not fill this bucket."""
    return int(_header(bucket, slot)[0]) == _GIVEN_UP


def verify(bucket: Bucket, slot: torch.Tensor, *, push: int, checksum: Checksum) -> Tensors:
    """Return views of a bucket's tensors, once its bytes are known to be those that were sent.

    Args:
        bucket: the one that must be there.
        slot: uint8, as long as ``sent_bytes`` at least.
        push: number of the push that it must belong to.
        checksum: the sender's.

    Raises:
        WeightPushError: it is another bucket, or damaged; names its first tensor.
    """
    sent = _header(bucket, slot).tolist()
    found = [bucket.number, push, *checksum(slot[: bucket.size_bytes])]
    if sent != found:
        raise WeightPushError(
            f"bucket {bucket.number}, from {bucket.entries[0].name} on: its number or its checksum "
            f"differs from what was sent ({sent}, {found})"
        )
    places = [(entry, entry.offset - bucket.start) for entry in bucket.entries]
    return [(e.name, view_of(e, slot[start : start + e.size_bytes])) for e, start in places]


def _header(bucket: Bucket, slot: torch.Tensor) -> torch.Tensor:
    start = aligned(bucket.size_bytes)
    return slot[start : start + 32].view(torch.int64)
