"""Lists the tensors of a model directory, from the headers of its safetensors files.

Owns the choice of files and the reading of headers. Refuses to own which tensors there should
be (shell.py). Invariants: a file that is truncated, damaged or missing is refused by name before
any weight is read; files that do not belong to the model are never read.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch

from rlpost.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")
_LENGTH_BYTES = 8  # size of the number before a header
_SAMPLE = 4096  # values that are checked per tensor
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "BOOL": torch.bool,
}

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """The position of a tensor in a file.

    Example: ``StoredTensor(file=Path("model.safetensors"), dtype="BF16", shape=(576,),
    start=96, end=1248)``
    """

    file: Path
    dtype: str  # as safetensors writes it
    shape: Shape
    start: int  # bytes from the beginning of the file
    end: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def torch_dtype(self) -> torch.dtype:
        return _DTYPES[self.dtype]

    def sample(self) -> torch.Tensor:
        """Return the first values."""
        dtype = self.torch_dtype
        count = min(self.numel, _SAMPLE)
        with self.file.open("rb") as handle:
            handle.seek(self.start)
            raw = bytearray(handle.read(count * dtype.itemsize))
        return torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)

    def read(self) -> torch.Tensor:
        """Return the values, in memory of their own: no page of the file stays mapped."""
        for values in self.pieces(entries=max(1, self.numel)):
            return values.reshape(self.shape)
        return torch.empty(self.shape, dtype=self.torch_dtype)

    def pieces(self, *, entries: int) -> Iterator[torch.Tensor]:
        """Yield the values from the first on, flat, at most ``entries`` at a time.

        All pieces lie in the same memory, so each is valid until the next one is asked for.

        Raises:
            UserError: the file became shorter since its header was read.
        """
        dtype = self.torch_dtype
        raw = torch.empty(min(self.numel, entries) * dtype.itemsize, dtype=torch.uint8)
        with self.file.open("rb", buffering=0) as handle:
            handle.seek(self.start)
            for start in range(0, self.numel, entries):
                piece = raw[: min(entries, self.numel - start) * dtype.itemsize]
                self._fill(memoryview(piece.numpy()), handle)
                yield piece.view(dtype)

    def read_part(self, start: int, stop: int) -> torch.Tensor:
        """Return the values from ``start`` to before ``stop`` of the flattened tensor, alone."""
        dtype = self.torch_dtype
        raw = torch.empty((stop - start) * dtype.itemsize, dtype=torch.uint8)
        with self.file.open("rb", buffering=0) as handle:
            handle.seek(self.start + start * dtype.itemsize)
            self._fill(memoryview(raw.numpy()), handle)
        return raw.view(dtype)

    def _fill(self, view: memoryview, handle: FileIO) -> None:
        done = 0
        while done < len(view):
            count = handle.readinto(view[done:])
            if not count:
                raise UserError(f"{self.file} became shorter while it was read; copy it again")
            done += count


def stored_tensors(directory: Path, *, field: str) -> dict[str, StoredTensor]:
    """Return the model's tensors by name.

    Args:
        directory: in Hugging Face layout.
        field: what an error calls it, such as ``model.path``.

    Raises:
        UserError: there are no safetensors, or a file is missing, damaged or quantized.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in weight_files(directory, field=field):
        tensors.update(_read_header(file, field=field))
    quantized = [name for name, tensor in tensors.items() if tensor.dtype not in _DTYPES]
    if quantized:
        first = tensors[quantized[0]]
        raise UserError(
            f"{field}: {first.file} stores {quantized[0]} as {first.dtype}, so its weights are "
            "quantized and cannot be trained; use the model's unquantized checkpoint"
        )
    return tensors


def file_tensors(file: Path, *, field: str) -> dict[str, StoredTensor]:
    """Return the tensors of one safetensors file by name.

    Raises:
        UserError: it is damaged.
    """
    return dict(_read_header(file, field=field))


def refuse_broken_numbers(tensors: Mapping[str, StoredTensor], *, field: str) -> None:
    """Check the first values of every tensor; a rank checks the rest when it loads them.

    Raises:
        UserError: a value is not finite.
    """
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor.sample()).all():
            raise UserError(
                f"{field}: {tensor.file} holds values in {name} that are not finite numbers, so "
                "the model was damaged when it was trained or written; use another copy of it"
            )


def weight_files(directory: Path, *, field: str) -> list[Path]:
    """Return the files that hold the model: those of the index, else ``model.safetensors``.

    Raises:
        UserError: there are none, or vLLM would also read other files of the directory.
    """
    index = directory / INDEX
    if index.is_file():
        return _indexed_files(index, field=field)
    found = sorted(directory.glob("*.safetensors"))
    if not (directory / SINGLE).is_file():
        raise UserError(f"{field}: {_no_weights(directory, found)}")
    others = [file.name for file in found if file.name != SINGLE]
    if others:
        raise UserError(
            f"{field}: {directory} holds {', '.join(others[:3])} beside {SINGLE}, and vLLM would "
            f"load both; move {'it' if len(others) == 1 else 'them'} out of the directory"
        )
    return [directory / SINGLE]


def _no_weights(directory: Path, found: list[Path]) -> str:
    if (directory / "adapter_model.safetensors") in found:
        return f"{directory} holds an adapter and not a whole model; merge it into its base first"
    if found:
        return (
            f"{directory} holds {found[0].name} but neither {SINGLE} nor {INDEX}; save the model "
            "again with save_pretrained()"
        )
    others = sorted(p.name for p in directory.iterdir() if p.suffix in _OTHER_FORMATS)
    if others:
        return (
            f"{directory} holds its weights as {others[0]}, which is not read: formats that can "
            "run code when they are opened, or that only inference programs read, are refused; "
            "convert it with transformers: AutoModelForCausalLM.from_pretrained(DIR)"
            ".save_pretrained(NEW) writes safetensors"
        )
    return f"{directory} holds no weights: there is no {SINGLE}; copy the model's files there"


def _indexed_files(index: Path, *, field: str) -> list[Path]:
    names = read_json_object(index, field=field).get("weight_map")
    if not isinstance(names, dict) or not names or not all(map(_is_file_name, names.values())):
        raise UserError(f"{field}: {index} must hold a `weight_map` from tensors to file names")
    files = [index.parent / name for name in sorted(set(names.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"{field}: {index} names {missing[0]}"
            + (f" and {len(missing) - 1} more files" if len(missing) > 1 else "")
            + f", which {'is' if len(missing) == 1 else 'are'} not there; copy or download the "
            "whole model again"
        )
    if (index.parent / SINGLE).is_file() and index.parent / SINGLE not in files:
        raise UserError(
            f"{field}: {index.parent} holds {SINGLE} and an index of other files, which different "
            "programs prefer differently; move one of the two out of the directory"
        )
    return files


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name


def _read_header(file: Path, *, field: str) -> Iterator[tuple[str, StoredTensor]]:
    size = file.stat().st_size
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(_LENGTH_BYTES), "little")
        raw = handle.read(length) if _LENGTH_BYTES + length <= size else b""
    if raw[:1] != b"{":
        raise UserError(f"{field}: {_no_safetensors(file, size)}")
    first = _LENGTH_BYTES + length
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        tensors = [
            (
                name,
                StoredTensor(
                    file=file,
                    dtype=entry["dtype"],
                    shape=tuple(entry["shape"]),
                    start=first + entry["data_offsets"][0],
                    end=first + entry["data_offsets"][1],
                ),
            )
            for name, entry in header.items()
        ]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(
            f"{field}: the header of {file} is damaged ({error}); copy the file again"
        ) from error
    for name, tensor in tensors:
        if not _is_consistent(tensor, first=first):
            raise UserError(
                f"{field}: the header of {file} says of {name} what cannot be: "
                f"{tensor.dtype} of the shape {list(tensor.shape)} in the bytes "
                f"{tensor.start - first} to {tensor.end - first}; copy the file again"
            )
    end = max((tensor.end for _, tensor in tensors), default=first)
    if end > size:
        raise UserError(
            f"{field}: {file} is cut off: it has {size:,} of {end:,} bytes; copy the file again"
        )
    return iter(tensors)


def _is_consistent(tensor: StoredTensor, *, first: int) -> bool:
    """Whether the bytes of a tensor are as many as its type and shape need."""
    numbers = (*tensor.shape, tensor.start, tensor.end)
    if not all(type(each) is int and each >= 0 for each in numbers) or tensor.start < first:
        return False
    dtype = _DTYPES.get(tensor.dtype)  # others are refused by name
    return dtype is None or tensor.end - tensor.start == tensor.numel * dtype.itemsize


def _no_safetensors(file: Path, size: int) -> str:
    with file.open("rb") as handle:
        if handle.read(len(b"version https://git-lfs")) == b"version https://git-lfs":
            return f"{file} is a pointer of git-lfs, not the weights; run `git lfs pull` there"
    return (
        f"{file} ({size:,} bytes) is cut off or no safetensors file: its header cannot be read; "
        "copy the file again"
    )


def read_json_object(file: Path, *, field: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file holds something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{field}: {file} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{field}: {file} must hold a JSON object, got {type(value).__name__}")
    return value
