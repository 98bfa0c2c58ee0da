"""Is there room, and what a refusing disk means to the loop.

Owns the check before a run and the translation of write failures during it. Refuses to own
directories (store.py). Invariant: a disk that fills up mid-run is an infrastructure failure
that the loop may survive, never a traceback from a library.
"""

import shutil
from pathlib import Path
from types import TracebackType

from rlpost.errors import InfrastructureError

# What libraries that hide errno (safetensors, torch) write when the disk is full.
_FULL_DISK_TEXTS = ("no space left on device", "pytorchstreamwriter failed writing")


class CheckpointWriteError(InfrastructureError):
    """A checkpoint could not be written; earlier ones are untouched."""


class disk_errors:
    """Turn a refusing disk inside the block into ``CheckpointWriteError``.

    Every ``OSError`` counts, and so does any exception that says the disk is full: libraries
    wrap the system's error in types of their own. Whoever writes bytes of a checkpoint
    (a trainer rank as well as the store) does it inside this block.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, CheckpointWriteError):
            return
        text = str(error).lower()
        if isinstance(error, OSError) or any(known in text for known in _FULL_DISK_TEXTS):
            raise CheckpointWriteError(
                f"writing the checkpoint at {self.path} failed: {error} "
                f"({format_bytes(free_bytes(self.path))} free there)"
            ) from error


def free_bytes(path: Path) -> int:
    """Bytes that an unprivileged writer may still use on the disk that holds ``path``."""
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """Return ``path`` or the nearest directory above it that exists."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return there


def tree_bytes(directory: Path) -> int:
    """Bytes of all files under ``directory``; files that vanish meanwhile count as 0."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def format_bytes(size_bytes: float) -> str:
    """Example: ``format_bytes(1.73e9) == "1.7 GB"`` (decimal units, as disks are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
