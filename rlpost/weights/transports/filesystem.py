"""Payloads as safetensors in a directory both ends can see: slow, simple, survives restarts.

Owns ``<root>/v<version>/{model.safetensors, COMMIT}``. Invariant: a directory with COMMIT
is complete; receivers refuse one without it.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from rlpost.errors import WeightPushError
from rlpost.umask import follow_umask
from rlpost.weights.manifest import PushManifest, Tensors, read_payload, view_of
from rlpost.weights.transports.protocol import Locator, Seat


def _views(manifest: PushManifest, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        e.name: view_of(e, buffer[e.offset : e.offset + e.size_bytes]) for e in manifest.entries
    }


class FilesystemSender:
    """Writes each version as a directory; see ``protocol.StagedSender``."""

    def __init__(self, *, root: Path) -> None:
        self._root = root
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def _directory(self, version: int) -> Path:
        return self._root / f"v{version}"

    def buffer(self, size_bytes: int, *, version: int) -> torch.Tensor:
        if self._buffer.numel() < size_bytes:
            self._buffer = torch.empty(size_bytes, dtype=torch.uint8)
        return self._buffer

    def announce(self, manifest: PushManifest, *, seats: Sequence[Seat]) -> Locator:
        from safetensors.torch import save_file

        directory = self._directory(manifest.version)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        try:
            save_file(_views(manifest, self._buffer), directory / "model.safetensors")
            follow_umask(directory)  # receivers may run as another user
            (directory / "COMMIT").write_text(f"{manifest.version}\n")
        except OSError as error:
            raise WeightPushError(f"cannot write weights to {directory}: {error}") from error
        where = {"path": str(directory)}
        return Locator(transport="filesystem", manifest=manifest.to_dict(), where=where)

    def release(self, version: int) -> None:
        shutil.rmtree(self._directory(version), ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)


class FilesystemReceiver:
    """Reads the sender's directory; see ``protocol.Receiver``."""

    def buckets(self, locator: Locator) -> Iterator[Tensors]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        directory = Path(locator.where["path"])
        if not (directory / "COMMIT").is_file():
            raise WeightPushError(f"{directory} has no COMMIT marker: not a complete version")
        manifest = PushManifest.from_dict(locator.manifest)
        buffer = torch.zeros(manifest.size_bytes, dtype=torch.uint8)
        try:
            tensors = load_file(directory / "model.safetensors")
        except (OSError, SafetensorError) as error:
            raise WeightPushError(f"cannot read weights from {directory}: {error}") from error
        for name, view in _views(manifest, buffer).items():
            if name not in tensors:
                raise WeightPushError(f"{directory} lacks {name}")
            view.copy_(tensors[name])
        yield read_payload(manifest, buffer)

    def close(self) -> None:
        """Nothing is kept open."""
