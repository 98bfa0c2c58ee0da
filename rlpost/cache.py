"""The cache of prepared models and encoded data, and directories that are created atomically.

Owns the location of the cache and the atomic creation of a directory. Invariants: the
command and `make` of one checkout use the same cache; a directory with the final name is
complete, even if writers were killed or several wrote at once; a cache that cannot be used is
named, with the variable that chooses another.
"""

import errno
import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rlpost.disk import says_full
from rlpost.errors import UserError
from rlpost.umask import follow_umask

_PRIVATE = ".rlpost-partial"  # ends the name of a directory that is being written
_ABANDONED_AFTER_S = 3600.0
_VARIABLE = "RLPOST_CACHE"
# Errors of a write or a lock, which name no file.
_OF_A_DISK = (errno.EROFS, errno.EIO, errno.EFBIG, errno.ENOLCK, errno.EACCES, errno.EPERM)


def cache_root() -> Path:
    """Return rlpost's cache directory.

    It is ``$RLPOST_CACHE`` if that is set; else the checkout's ``.cache``, which `make` uses
    too, when Python runs from the ``.venv`` of the checkout; else ``~/.cache/rlpost``.

    Raises:
        UserError: it lies in a home directory, and there is none.
    """
    try:
        return _root()
    except RuntimeError as error:  # of pathlib, about a home directory
        raise _unusable(os.environ.get(_VARIABLE) or "~/.cache/rlpost", str(error)) from error


def _root() -> Path:
    named = os.environ.get(_VARIABLE)
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


def cached(*place: str, write: Callable[[Path], None]) -> Path:
    """Return a directory of the cache, which ``write`` fills if it is not there yet.

    Args:
        place: names below the cache's root.
        write: as for ``publish_directory``.

    Raises:
        UserError: the cache cannot be read or written, or its disk is full.
    """
    root = cache_root()
    try:
        return publish_directory(root.joinpath(*place), write)
    except UserError:
        raise
    except Exception as error:
        if not _is_of(root, error):
            raise
        why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        raise _unusable(str(root), why) from error


def _is_of(root: Path, error: Exception) -> bool:
    """Whether it is the cache that failed, and not what ``write`` reads elsewhere."""
    if says_full(error):  # nothing else is written
        return True
    if not isinstance(error, OSError):
        return False
    if isinstance(error.filename, str | bytes | os.PathLike):
        return Path(os.fsdecode(error.filename)).absolute().is_relative_to(root.absolute())
    return error.errno in _OF_A_DISK


def _unusable(root: str, why: str) -> UserError:
    named = os.environ.get(_VARIABLE)
    what = f"{_VARIABLE}={named}" if named else f"the cache {root} ({_VARIABLE} is not set)"
    return UserError(
        f"{what} must be a directory that can be written and whose disk has room: {why}; set "
        f"{_VARIABLE} to another directory, or make this one usable"
    )


def publish_directory(final: Path, write: Callable[[Path], None]) -> Path:
    """Let ``write`` fill a private directory, then rename it to ``final``.

    An existing ``final`` is kept and ``write`` is not called. If two processes write at the same
    time, the first to finish wins and the other copy is discarded. What killed writers left beside
    it is removed.
    """
    if final.exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(final.parent)
    scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=_PRIVATE, dir=final.parent))
    lock = os.open(scratch, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)  # the system releases it when this process ends
        write(scratch)
        follow_umask(scratch)
        try:
            scratch.rename(final)
        except OSError:
            if not final.exists():
                raise
    finally:
        os.close(lock)
        shutil.rmtree(scratch, ignore_errors=True)
    return final


def _remove_abandoned(parent: Path) -> None:
    """Remove the private directories of writers that were killed."""
    for scratch in parent.glob(f".*{_PRIVATE}"):
        with suppress(OSError):  # its writer is alive or has just finished, or there are no locks
            # A directory exists for a moment before its writer locks it.
            if time.time() - scratch.stat().st_mtime > _ABANDONED_AFTER_S:
                lock = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(scratch, ignore_errors=True)
                finally:
                    os.close(lock)
