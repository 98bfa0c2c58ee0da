"""Free space, and what the loop sees when a write to the disk fails.

Owns the measurement of space and the translation of write failures. Refuses to own directories
(store.py). Invariant: a disk that fills up during a run is an infrastructure failure that the
loop may survive, never a traceback from a library.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlpost.disk import says_full
from rlpost.errors import InfrastructureError


class CheckpointWriteError(InfrastructureError):
    """A checkpoint could not be written; earlier ones are untouched."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a failed write inside the block into ``CheckpointWriteError``.

    Every ``OSError`` counts, and so does any exception whose text says that the disk is full,
    because libraries wrap the system's error in types of their own. All bytes of a checkpoint,
    those of trainer ranks too, are written inside such a block.
    """
    try:
        yield
    except CheckpointWriteError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and not says_full(error):
            raise
        raise CheckpointWriteError(
            f"writing the checkpoint at {path} failed: {error} "
            f"({format_bytes(free_bytes(path))} free there)"
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
