"""The directory of a run's checkpoints.

Owns the protocol begin -> commit | abort, the pointers ``latest`` and ``best``, and retention.
Refuses to own what is inside a checkpoint and which one is the best. One process writes to a
store; any number may read.

Invariants: a directory named ``step_NNNNNN`` was complete when it got that name; ``latest``
and ``best`` name committed checkpoints; an old checkpoint is removed only after a newer one is
committed, and the best one never; whichever process is killed at whichever point, the newest
committed one still loads.
"""

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlpost.bounds import number, option
from rlpost.checkpoint.manifest import CheckpointManifest, read_manifest, verify, write_manifest
from rlpost.checkpoint.space import (
    CheckpointWriteError,
    disk_errors,
    existing,
    format_bytes,
    free_bytes,
    tree_bytes,
)
from rlpost.checkpoint.state import fsync_path, write_text
from rlpost.control.result_metrics import BestMode, wants_low
from rlpost.errors import DataError, UserError
from rlpost.umask import follow_umask

logger = logging.getLogger(__name__)

_STEP_NAME = re.compile(r"(?:\.replaced-)?step_\d{6,}")
_SCRATCH = ".scratch-"
_TRASH = ".trash-"
_REPLACED = ".replaced-"
_LEFT_BEHIND = (_SCRATCH, _TRASH, ".latest.", ".best.")  # by a killed writer


@dataclass(kw_only=True)
class CheckpointConfig:
    """When to save and how many to keep."""

    every: int = number(
        10,
        at_least=0,
        at_most=10**8,
        hint="0 saves only at the end and on interruption",
        help="steps between saves; 0: only at the end and on interruption",
    )
    keep: int = number(
        1,
        at_least=1,
        at_most=10**4,
        hint="checkpoint.every=0 saves only at the end",
        help="checkpoints that stay on disk, of 12 bytes a trained parameter each",
    )
    best_metric: str | None = option(
        None, help="metric of evaluations whose best checkpoint stays, too; null: none"
    )
    best_mode: BestMode | None = option(
        None, help="which end of best_metric is good: max or min; null: as its name tells"
    )

    def check(self, path: str) -> None:
        """Raises UserError: a mode without a metric, or a metric without a direction."""
        if self.best_metric is not None:
            wants_low(self.best_metric, self.best_mode, field=f"{path}.best_mode")
        elif self.best_mode is not None:
            raise UserError(
                f"{path}.best_mode has no effect without {path}.best_metric; set "
                f"{path}.best_metric=NAME, for example the held-out result of the stage"
            )

    @property
    def num_kept(self) -> int:
        """Checkpoints that stay on disk, the best one included."""
        return self.keep + (self.best_metric is not None)


class CheckpointStore:
    """Checkpoints under ``root`` (a run's ``checkpoints/``).

    Example::

        store = CheckpointStore(run_dir / "checkpoints", keep=2)
        scratch = store.begin(20)
        save_model(scratch / "model")
        write_json(scratch / "driver.json", state)
        path = store.commit(scratch, step=20, config_hash=config_hash)
    """

    def __init__(self, root: Path, *, keep: int = 2) -> None:
        assert keep >= 1
        self.root = root
        self.keep = keep
        self._open: set[Path] = set()

    def begin(self, step: int) -> Path:
        """Return an empty private directory for the checkpoint of ``step``.

        Directories that a killed writer left behind are removed first.

        Raises:
            CheckpointWriteError: the write fails.
        """
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            self.sweep()
            scratch = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{_name(step)}-", dir=self.root))
            follow_umask(scratch)  # ranks may write as another user on a shared disk
        self._open.add(scratch)
        return scratch

    def commit(self, scratch: Path, *, step: int, config_hash: str, is_best: bool = False) -> Path:
        """Make ``scratch`` the newest checkpoint, then prune; return its final path.

        A checkpoint of the same step is replaced: a resumed run reaches old steps again. With
        ``is_best`` the pointer ``best`` names it from then on.

        Raises:
            CheckpointWriteError: the write fails; ``scratch`` is removed, older
                checkpoints are untouched.
        """
        assert scratch in self._open, f"{scratch} was not begun here, or was committed or aborted"
        final = self.root / _name(step)
        try:
            with disk_errors(final):
                write_manifest(
                    scratch, step=step, sequence=self._next_sequence(), config_hash=config_hash
                )
                self._publish(scratch, final)
        except BaseException:
            self.abort(scratch)
            raise
        self._open.discard(scratch)
        if self._point(["latest", "best"] if is_best else ["latest"], final):
            self._prune()
        return final

    def _point(self, pointers: Sequence[str], final: Path) -> bool:
        """Have ``pointers`` name a checkpoint that is complete; return whether they do."""
        try:
            with disk_errors(self.root):
                for pointer in pointers:
                    write_text(self.root / pointer, final.name + "\n")
        except CheckpointWriteError as error:  # the checkpoint itself is complete
            logger.warning(
                "%s is saved, but `%s` still names the previous checkpoint: %s",
                final.name,
                pointer,
                error,
            )
            return False
        return True

    def mark_best(self, step: int | None) -> bool:
        """Have ``best`` name the checkpoint of ``step``, or nothing.

        Returns False, and leaves no pointer, where there is no such checkpoint, or a damaged one.
        """
        path = None if step is None else self.root / _name(step)
        if path is not None and _is_complete(path):
            return path == self.best() or self._point(["best"], path)
        (self.root / "best").unlink(missing_ok=True)
        return step is None

    def best(self) -> Path | None:
        """Return the checkpoint that ``best`` names, complete or damaged; None: there is none."""
        try:
            name = (self.root / "best").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        path = self.root / name
        return path if _STEP_NAME.fullmatch(name) and path.is_dir() else None

    def abort(self, scratch: Path) -> None:
        """Remove ``scratch``; the checkpoint is given up."""
        self._open.discard(scratch)
        shutil.rmtree(scratch, ignore_errors=True)

    def latest(self, *, hashes: bool = True) -> Path | None:
        """Return the newest checkpoint that verifies, or None when there is none.

        A damaged one is reported in a warning, and the one before it is tried.

        Args:
            hashes: read every byte of the candidate; False checks presence and sizes only.
        """
        for path in self._newest_first():
            try:
                verify(path, hashes=hashes)
            except DataError as error:
                logger.warning(
                    "checkpoint %s is damaged, trying the one before it: %s", path.name, error
                )
            else:
                return path
        return None

    def newest(self) -> Path | None:
        """Return the newest checkpoint, complete or damaged; None if there is none."""
        return next(iter(self._newest_first()), None)

    def require_space(self, size_bytes: int, *, num_kept: int | None = None) -> None:
        """Refuse to start a run whose checkpoints cannot fit; creates nothing.

        Space is needed for the checkpoints that stay and the one being written; the space of
        earlier checkpoints of this run counts as free, because they will be pruned.

        Raises:
            UserError: too little space, or ``root`` cannot be created or written.
        """
        try:
            with tempfile.TemporaryFile(dir=existing(self.root)):  # leaves nothing behind
                pass
        except OSError as error:
            raise UserError(
                f"checkpoints cannot be written to {self.root}: {error}; set run.dir to a "
                "directory you can write to"
            ) from error
        num_kept = num_kept or self.keep
        needed = size_bytes * (num_kept + 1)
        available = free_bytes(self.root) + tree_bytes(self.root)
        if needed > available:
            raise UserError(
                f"checkpoint.keep={self.keep} needs {format_bytes(needed)} in {self.root} "
                f"({num_kept} kept and 1 being written, {format_bytes(size_bytes)} each), "
                f"{format_bytes(available)} available; free some space, set run.dir to a larger "
                "disk, or lower checkpoint.keep"
            )

    def sweep(self) -> None:
        """Remove what killed writers left behind: scratch, trash and replaced directories."""
        if not self.root.is_dir():
            return
        for path in self.root.iterdir():
            superseded = (
                path.name.startswith(_REPLACED)
                and (self.root / path.name.removeprefix(_REPLACED)).is_dir()
            )
            stale = path.name.startswith(_LEFT_BEHIND) and path not in self._open
            if path.is_dir() and (superseded or stale):
                shutil.rmtree(path, ignore_errors=True)
            elif stale:
                path.unlink(missing_ok=True)

    def _publish(self, scratch: Path, final: Path) -> None:
        replaced = self.root / f"{_REPLACED}{final.name}"
        if final.exists():
            # Not every file system can exchange two directories atomically. Until the new one
            # has its name, the old one has a name that latest() still finds.
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
        scratch.rename(final)
        fsync_path(self.root)
        self._discard(replaced)

    def _prune(self) -> None:
        complete, best = 0, self.best()
        for path in self._newest_first():
            if path == best:
                complete += complete < self.keep
            elif complete >= self.keep or not _is_complete(path):
                self._discard(path)
            else:
                complete += 1

    def _discard(self, path: Path) -> None:
        if not path.exists():
            return
        # Renamed first, so that a kill during the removal leaves no half checkpoint.
        trash = self.root / f"{_TRASH}{os.getpid()}-{path.name}"
        try:
            path.rename(trash)
            shutil.rmtree(trash)
        except OSError as error:
            logger.warning("old checkpoint %s could not be removed: %s", path, error)

    def _newest_first(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        found = [p for p in self.root.iterdir() if _STEP_NAME.fullmatch(p.name) and p.is_dir()]
        # A checkpoint without a readable manifest comes first, so that latest() warns of it.
        return sorted(
            found, key=lambda p: (_sequence(p) is None, _sequence(p) or 0, p.name), reverse=True
        )

    def _next_sequence(self) -> int:
        return 1 + max((_sequence(path) or 0 for path in self._newest_first()), default=0)


def load_manifest(path: Path) -> CheckpointManifest:
    """Verify the checkpoint at ``path`` (``resume=PATH``) byte by byte; return its manifest.

    Raises:
        UserError: ``path`` is not a directory.
        DataError: it is not a complete checkpoint.
    """
    if not path.is_dir():
        raise UserError(
            f"resume must be auto, never or a checkpoint directory, got {path}, which is not a "
            "directory; checkpoints are runs/<name>/checkpoints/step_NNNNNN"
        )
    return verify(path, hashes=True)


def _name(step: int) -> str:
    assert step >= 0
    return f"step_{step:06d}"


def _sequence(path: Path) -> int | None:
    """Return the commit number of a checkpoint; None when its manifest cannot be read."""
    try:
        return read_manifest(path).sequence
    except DataError:
        return None


def _is_complete(path: Path) -> bool:
    try:
        verify(path, hashes=False)
    except DataError:
        return False
    return True
