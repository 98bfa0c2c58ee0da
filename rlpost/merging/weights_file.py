"""Writes a model's weights tensor by tensor, or in pieces of them, as they come.

Owns the files: safetensors in parts of bounded size and their index. Refuses to own values and
everything beside the weights. Invariant: the files are those that transformers writes of the same
tensors, and a file is complete or the writer has raised.

The format: https://github.com/huggingface/safetensors#format. The library itself writes only
tensors that are all in memory.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlpost.models.directory.weight_files import INDEX, SINGLE, Shape

PART_BYTES = 5 * 10**9
_ALIGNMENT = 8
Value = Tensor | Iterable[Tensor]  # a whole tensor, or its entries from the first on, flat
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, kw_only=True)
class PlannedTensor:
    """A tensor that is to be written. Example: ``PlannedTensor(name="model.norm.weight",
    dtype=torch.bfloat16, shape=(576,))``
    """

    name: str
    dtype: torch.dtype
    shape: Shape

    @property
    def size_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_weights(
    directory: Path,
    planned: Sequence[PlannedTensor],
    value_of: Callable[[str], Value],
    *,
    part_bytes: int = PART_BYTES,
) -> None:
    """Write ``model.safetensors``, or parts of at most ``part_bytes`` and their index.

    Args:
        directory: that exists.
        planned: in the order in which they are written.
        value_of: returns a tensor by name, or its pieces, each of which is written before the
            next one is taken; it is called once for each.
        part_bytes: a larger tensor has a part of its own.
    """
    parts = list(_parts(planned, part_bytes))
    names = [SINGLE]
    if len(parts) > 1:
        count = len(parts)
        names = [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
    for name, part in zip(names, parts, strict=True):
        _write_part(directory / name, part, value_of)
    if len(parts) > 1:
        places = {each.name: name for name, part in zip(names, parts, strict=True) for each in part}
        total = sum(each.size_bytes for each in planned)
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _parts(planned: Sequence[PlannedTensor], most: int) -> Iterator[list[PlannedTensor]]:
    part: list[PlannedTensor] = []
    size = 0
    for each in planned:
        if part and size + each.size_bytes > most:
            yield part
            part, size = [], 0
        part.append(each)
        size += each.size_bytes
    yield part


def _write_part(
    file: Path, part: Sequence[PlannedTensor], value_of: Callable[[str], Value]
) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for each in part:
        start, end = end, end + each.size_bytes
        header[each.name] = {
            "dtype": _DTYPES[each.dtype],
            "shape": list(each.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with file.open("wb") as handle:
        handle.write(len(text).to_bytes(8, "little"))
        handle.write(text)
        for each in part:
            value, missing = value_of(each.name), torch.Size(each.shape).numel()
            if isinstance(value, Tensor):
                assert tuple(value.shape) == each.shape, each.name
                value = [value]
            for piece in value:
                assert piece.dtype == each.dtype, each.name
                flat = piece.detach().cpu().contiguous().reshape(-1)
                missing -= flat.numel()
                handle.write(flat.view(torch.uint8).numpy().data)
            assert missing == 0, each.name
