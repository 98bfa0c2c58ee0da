"""What one pushed weight version consists of: names, places and checksums.

Owns the flat payload layout and its verification. Refuses to own how bytes travel
(transports/) and when (bus.py). Invariant: a payload that verifies is byte for byte what
the trainer wrote, and what passes ``refuse_other_model`` holds exactly the expected tensors.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import xxhash

from rlpost.errors import WeightPushError
from rlpost.training.pinned_memory import PIECE_BYTES, pinned_pieces

ALIGNMENT_BYTES = 64

Shape = tuple[int, ...]
Tensors = Sequence[tuple[str, torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """One tensor's place in the flat payload.

    Example: ``TensorEntry(name="model.norm.weight", dtype="bfloat16", shape=(576,),
    offset=0, size_bytes=1152, checksum="9f0c...")``
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int
    checksum: str = ""  # of a payload that lies somewhere; a bucket has one of its own


@dataclass(frozen=True, kw_only=True)
class PushManifest:
    """The tensors of weight version ``version``, in payload order.

    Without ``adapter`` they are the whole model, under the names of its checkpoint. With it they
    are a LoRA adapter on the base that every generator has loaded, under the names of peft's
    files, and ``adapter`` is peft's configuration of it.
    """

    version: int
    entries: tuple[TensorEntry, ...]
    adapter: Mapping[str, Any] | None = None

    @property
    def kind(self) -> Literal["full", "adapter"]:
        return "full" if self.adapter is None else "adapter"

    @property
    def size_bytes(self) -> int:
        if not self.entries:
            return 0
        return self.entries[-1].offset + self.entries[-1].size_bytes

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "PushManifest":
        entries = tuple(TensorEntry(**{**e, "shape": tuple(e["shape"])}) for e in data["entries"])
        return cls(**{**data, "entries": entries})


def describe(
    shapes: Iterable[tuple[str, torch.dtype, Shape]],
    *,
    version: int,
    adapter: Mapping[str, Any] | None = None,
) -> PushManifest:
    """Return what a payload of these tensors will consist of; it has no checksums yet."""
    entries: list[TensorEntry] = []
    offset = 0
    for name, dtype, shape in shapes:
        size_bytes = torch.Size(shape).numel() * dtype.itemsize
        kind = str(dtype).removeprefix("torch.")
        entries.append(
            TensorEntry(
                name=name, dtype=kind, shape=tuple(shape), offset=offset, size_bytes=size_bytes
            )
        )
        offset = aligned(offset + size_bytes)
    return PushManifest(version=version, entries=tuple(entries), adapter=adapter)


def aligned(size_bytes: int) -> int:
    """Return where the next tensor begins after so many bytes."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def checksum(payload: torch.Tensor) -> str:
    """Return the xxh3-128 hex digest of a contiguous uint8 CPU tensor."""
    return xxhash.xxh3_128_hexdigest(payload.numpy())


def payload_size_bytes(tensors: Iterable[tuple[str, torch.dtype, tuple[int, ...]]]) -> int:
    """Upper bound of the flat size of ``(name, dtype, shape)`` tensors, in bytes."""
    return sum(aligned(torch.Size(shape).numel() * dtype.itemsize) for _, dtype, shape in tensors)


def write_payload(
    weights: Iterator[tuple[str, torch.Tensor]],
    buffer: torch.Tensor,
    *,
    version: int,
    adapter: Mapping[str, Any] | None = None,
) -> PushManifest:
    """Copy tensors into ``buffer`` (uint8, CPU) one after the other and describe them.

    Args:
        weights: names and tensors.
        buffer: where they go.
        version: their number.
        adapter: see ``PushManifest``.

    Raises:
        WeightPushError: the buffer is too small.
    """
    entries: list[TensorEntry] = []
    offset = 0
    for name, tensor in weights:
        source = bytes_of(tensor.detach())
        end = offset + source.numel()
        if end > buffer.numel():
            raise WeightPushError(f"payload buffer of {buffer.numel()} bytes ends inside {name}")
        target = buffer[offset:end]
        copy_bytes(source, target)
        entries.append(
            TensorEntry(
                name=name,
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=tuple(tensor.shape),
                offset=offset,
                size_bytes=source.numel(),
                checksum=checksum(target),
            )
        )
        offset = aligned(end)
    return PushManifest(version=version, entries=tuple(entries), adapter=adapter)


def copy_bytes(source: torch.Tensor, target: torch.Tensor) -> None:
    """Copy bytes; from a GPU into memory that CUDA does not know in pieces through pinned memory.

    The driver's own way into pages that were never touched is several times slower.

    Raises:
        NotPinned: the system refused to pin as much as one piece.
    """
    if not source.is_cuda or target.is_cuda or target.is_pinned():  # see host_pages.py
        target.copy_(source)
        return
    (pinned,) = pinned_pieces(  # from torch's pool
        PIECE_BYTES, purpose="a push of weights", way_out="run fewer processes on it"
    )
    for piece, place in zip(source.split(PIECE_BYTES), target.split(PIECE_BYTES), strict=True):
        place.copy_(pinned[: piece.numel()].copy_(piece))


def read_payload(manifest: PushManifest, buffer: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Verify ``buffer`` (uint8, CPU) and return views of its tensors.

    Args:
        manifest: what the sender says it wrote.
        buffer: received bytes, at least ``manifest.size_bytes`` long.

    Raises:
        WeightPushError: bytes are missing, or a tensor is damaged; names it.
    """
    names = [entry.name for entry in manifest.entries]
    if len(set(names)) != len(names):
        raise WeightPushError(f"version {manifest.version} names a tensor twice")
    if buffer.numel() < manifest.size_bytes:
        raise WeightPushError(
            f"version {manifest.version}: received {buffer.numel()} of {manifest.size_bytes} bytes"
        )
    tensors = []
    for entry in manifest.entries:
        raw = buffer[entry.offset : entry.offset + entry.size_bytes]
        if checksum(raw) != entry.checksum:
            raise WeightPushError(
                f"version {manifest.version}: checksum of {entry.name} differs from what was sent"
            )
        tensors.append((entry.name, view_of(entry, raw)))
    return tensors


def view_of(entry: TensorEntry, raw: torch.Tensor) -> torch.Tensor:
    """Return the bytes of an entry as the tensor that they are."""
    return raw.view(getattr(torch, entry.dtype)).view(entry.shape)


def refuse_other_model(manifest: PushManifest, expected: Mapping[str, Shape]) -> None:
    """Compare what was sent with the tensors of the model that receives it.

    Raises:
        WeightPushError: one is missing, unknown or misshapen; names it.
    """
    names = {entry.name for entry in manifest.entries}
    if names != expected.keys():
        missing, unknown = sorted(expected.keys() - names), sorted(names - expected.keys())
        raise WeightPushError(
            f"version {manifest.version} is not the whole model: "
            f"missing {missing[:3]} ({len(missing)}), unknown {unknown[:3]} ({len(unknown)})"
        )
    for entry in manifest.entries:
        # vLLM would cut a tensor that is too long to size, without a word.
        if entry.shape != expected[entry.name]:
            raise WeightPushError(
                f"version {manifest.version}: {entry.name} has shape {entry.shape}, the model "
                f"has {expected[entry.name]}"
            )
