"""The manifest of a checkpoint, which lists and proves its content.

Owns ``MANIFEST.json``: name, size and hash of every file, and the configuration of the run that
wrote them. Refuses to own directories and retention (store.py). Invariant: a manifest that loads
and verifies describes exactly the bytes that its writer hashed.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from rlpost.checkpoint.state import fsync_path, write_json
from rlpost.errors import DataError

MANIFEST_NAME = "MANIFEST.json"
FORMAT = 3


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One file of a checkpoint: its size and the BLAKE3 hash of its bytes (hex)."""

    size_bytes: int
    blake3: str


@dataclass(frozen=True, kw_only=True)
class CheckpointManifest:
    """The identity and content of one checkpoint.

    ``sequence`` counts commits in one directory, so it orders checkpoints in time even
    when a run goes back to an earlier step.

    Example: ``CheckpointManifest(step=20, sequence=2, config_hash="9f2c",
    files={"driver.json": FileRecord(size_bytes=812, blake3="a1b2...")})``
    """

    step: int
    sequence: int
    config_hash: str
    files: Mapping[str, FileRecord]


def write_manifest(
    directory: Path, *, step: int, sequence: int, config_hash: str
) -> CheckpointManifest:
    """Hash and flush every file under ``directory``, then write its manifest.

    Raises:
        OSError: a file cannot be read, flushed or written.
    """
    files = flushed_files(directory)
    assert MANIFEST_NAME not in files, "a scratch directory has no manifest before its commit"
    manifest = CheckpointManifest(
        step=step, sequence=sequence, config_hash=config_hash, files=files
    )
    write_proven(directory / MANIFEST_NAME, asdict(manifest), version=FORMAT)
    return manifest


def flushed_files(directory: Path) -> dict[str, FileRecord]:
    """Hash and flush every file under ``directory``; returns them by their names.

    Raises:
        OSError: a file cannot be read or flushed.
    """
    files = {}
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        name = path.relative_to(directory).as_posix()
        files[name] = FileRecord(size_bytes=path.stat().st_size, blake3=hash_file(path))
        fsync_path(path)
    for folder in (p for p in directory.rglob("*") if p.is_dir()):
        fsync_path(folder)
    return files


def write_proven(path: Path, body: Mapping[str, Any], *, version: int) -> None:
    """Write a manifest with the version of its form and its own digest."""
    write_json(path, {"format": version, "digest": _digest(body), "manifest": body})


def read_proven(path: Path, *, version: int) -> Any:
    """Return what ``write_proven`` wrote.

    Raises:
        DataError: it is of another version or altered.
        OSError, ValueError, LookupError, TypeError: it is no such file.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    body, digest, found = document["manifest"], document["digest"], document["format"]
    if found != version:
        raise DataError(f"{path}: format {found}, this rlpost reads format {version}")
    if digest != _digest(body):
        raise DataError(f"{path}: the manifest does not match its own digest")
    return body


def read_manifest(directory: Path) -> CheckpointManifest:
    """Load the manifest of ``directory`` and check it against its own digest.

    Raises:
        DataError: the manifest is missing, unreadable, of another format or altered.
    """
    path = directory / MANIFEST_NAME
    try:
        body = read_proven(path, version=FORMAT)
        files = {name: FileRecord(**record) for name, record in body["files"].items()}
        return CheckpointManifest(
            step=body["step"],
            sequence=body["sequence"],
            config_hash=body["config_hash"],
            files=files,
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: no readable manifest ({error})") from error


def verify(directory: Path, *, hashes: bool) -> CheckpointManifest:
    """Check that ``directory`` holds what its manifest says and return the manifest.

    Args:
        hashes: also read every byte; otherwise only presence and sizes are checked.

    Raises:
        DataError: names the first file that is missing, short or altered.
    """
    manifest = read_manifest(directory)
    verify_files(directory, manifest.files, hashes=hashes)
    return manifest


def verify_files(directory: Path, files: Mapping[str, FileRecord], *, hashes: bool) -> None:
    """Raises DataError: a file of a manifest is missing, short or altered; see ``verify``."""
    for name, record in files.items():
        path = directory / name
        if not path.is_file():
            raise DataError(f"{path}: listed in the manifest but missing")
        size_bytes = path.stat().st_size
        if size_bytes != record.size_bytes:
            raise DataError(f"{path}: {size_bytes} bytes, the manifest says {record.size_bytes}")
        if hashes and hash_file(path) != record.blake3:
            raise DataError(f"{path}: its content does not match the hash in the manifest")


def hash_file(path: Path) -> str:
    """Return the BLAKE3 hash of a file in hex; reads it through a memory map."""
    hasher = blake3()
    hasher.update_mmap(path)
    return hasher.hexdigest()


def _digest(body: Mapping[str, Any]) -> str:
    return blake3(json.dumps(body, sort_keys=True).encode()).hexdigest()
