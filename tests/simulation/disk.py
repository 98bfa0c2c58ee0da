"""What survives the driver: the real checkpoint store, on a disk that can be full or rot."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlpost.checkpoint.space import CheckpointWriteError, disk_errors
from rlpost.checkpoint.store import CheckpointStore


class Disk:
    """Directory, faults, and what was truly committed: ``[(step, path)]``, oldest first."""

    def __init__(self, world: Any, root: Path) -> None:
        self._world, self.root = world, root
        self.committed: list[tuple[int, Path]] = []

    def may(self, verb: str) -> str:
        """Count an operation; returns the kind of fault that meets it.

        Raises:
            OSError: the disk is full.
        """
        fault = self._world.faults.at_call("disk", verb)
        if fault is None:
            return ""
        self._world.log(f"FAULT disk {verb}: {fault.kind}")
        if fault.kind == "full":
            raise OSError(28, "No space left on device")
        return fault.kind

    @property
    def newest_step(self) -> int:
        """Step of the newest checkpoint that is whole, 0 when there is none."""
        return next((step for step, path in reversed(self.committed) if path.is_dir()), 0)

    def store(self, keep: int) -> "SimulatedStore":
        return SimulatedStore(self._world, self.root / "checkpoints", keep=keep)


class SimulatedStore(CheckpointStore):
    """The real store of one driver, until that driver is dead."""

    def __init__(self, world: Any, root: Path, *, keep: int) -> None:
        super().__init__(root, keep=keep)
        self._world, self._life = world, world.life

    def begin(self, step: int) -> Path:
        self._alive()
        with disk_errors(self.root):
            self._world.disk.may("begin")
        return super().begin(step)

    def commit(self, scratch: Path, *, step: int, config_hash: str, **rest: Any) -> Path:
        self._alive()
        world = self._world
        world.point("commit begins")
        world.checker.committing(step, scratch)
        try:
            with disk_errors(self.root):
                kind = world.disk.may("commit")
        except CheckpointWriteError:
            self.abort(scratch)
            raise
        path = super().commit(scratch, step=step, config_hash=config_hash, **rest)
        world.log(f"checkpoint of step {step}")
        world.disk.committed = [c for c in world.disk.committed if c[1] != path]
        world.disk.committed.append((step, path))
        if kind == "damage":
            file = path / "driver.json"
            file.write_text(file.read_text()[:-5])
            world.disk.committed.pop()
        world.point("commit ends")
        return path

    def _alive(self) -> None:
        assert not self._world.severed and self._life == self._world.life, "a dead driver writes"


@contextmanager
def never_cut() -> Iterator[None]:
    """The power is never cut here: flushing would only cost real time."""
    flush, os.fsync = os.fsync, lambda descriptor: None
    try:
        yield
    finally:
        os.fsync = flush
