"""Directories that appear whole or not at all.

Owns the atomic creation of a model directory. Invariant: a directory with the final name
is complete, whatever was killed while it was written and however many writers raced.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_root() -> Path:
    """Return rlpost's cache directory: ``$RLPOST_CACHE`` or ``~/.cache/rlpost``."""
    return Path(os.environ.get("RLPOST_CACHE") or Path.home() / ".cache" / "rlpost")


def publish_directory(final: Path, write: Callable[[Path], None]) -> Path:
    """Let ``write`` fill a private directory, then rename it to ``final``.

    An existing ``final`` is kept and ``write`` is not called. Of two racing writers the
    first wins; the other's copy is discarded.
    """
    if final.exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        write(scratch)
        scratch.chmod(0o755)
        try:
            scratch.rename(final)
        except OSError:
            if not final.exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return final
