"""The cache of prepared models and encoded data, and directories that are created atomically.

Owns the location of the cache and the atomic creation of a directory. Invariants: the
command and `make` of one checkout use the same cache; a directory with the final name is
complete, even if writers were killed or several wrote at once.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rlpost.umask import follow_umask


def cache_root() -> Path:
    """Return rlpost's cache directory.

    It is ``$RLPOST_CACHE`` if that is set; else the checkout's ``.cache``, which `make` uses
    too, when Python runs from the ``.venv`` of the checkout; else ``~/.cache/rlpost``.
    """
    named = os.environ.get("RLPOST_CACHE")
    if named:
        return Path(named).expanduser()
    checkout = Path(__file__).resolve().parents[1]
    own = cache_of_checkout(checkout, prefix=Path(sys.prefix))
    return own or Path.home() / ".cache" / "rlpost"


def cache_of_checkout(checkout: Path, *, prefix: Path) -> Path | None:
    """Return ``checkout/.cache`` if ``prefix`` is its ``.venv`` and we may write there."""
    if prefix.resolve() != (checkout / ".venv").resolve():
        return None
    cache = checkout / ".cache"
    return cache if os.access(cache if cache.exists() else checkout, os.W_OK) else None


def publish_directory(final: Path, write: Callable[[Path], None]) -> Path:
    """Let ``write`` fill a private directory, then rename it to ``final``.

    An existing ``final`` is kept and ``write`` is not called. If two processes write at the same
    time, the first to finish wins and the other copy is discarded.
    """
    if final.exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        write(scratch)
        follow_umask(scratch)
        try:
            scratch.rename(final)
        except OSError:
            if not final.exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return final
