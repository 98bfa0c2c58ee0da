"""``cost.json``: what a run has cost, kept where no crash takes it away.

Owns the file and which devices a run occupies. Refuses to own the sums (control/cost.py).
Invariant: what the file says is never less than what it said before.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlpost.checkpoint.state import read_json
from rlpost.control.cost import DevicesInUse, RunCost, Sums
from rlpost.errors import DataError
from rlpost.tracking.boundary import attempt

log = logging.getLogger(__name__)


class CostLedger:
    """Adds up the cost of a run and writes it down.

    Example::

        ledger = CostLedger(run_dir / "cost.json", devices=lambda: devices_in_use(session))
        ledger.note(record.metrics)
        tracker.log(step, ledger.metrics())
    """

    def __init__(
        self,
        path: Path,
        *,
        devices: Callable[[], DevicesInUse],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._devices, self._clock = path, devices, clock
        spent, lost = _read(path)
        self._cost = RunCost(now_s=clock(), spent=spent, lost=lost)
        self._before = dict(spent)  # by earlier processes

    def note(self, metrics: Mapping[str, float] | None = None) -> None:
        """Add the time since the last note, and what the metrics of a step count; write it down.

        A failure to write is a warning.
        """
        self._cost.spend(now_s=self._clock(), devices=self._devices(), metrics=metrics)
        sums = {"spent": self._cost.spent, "lost": self._cost.lost}
        attempt(f"writing {self._path}", lambda: _replace(self._path, json.dumps(sums)))

    def metrics(self) -> dict[str, float]:
        """Return ``cost/*``."""
        return self._cost.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Return what belongs to checkpoints."""
        return self._cost.state_dict()

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """This process goes on from a checkpoint, or from the beginning (None)."""
        self._cost.go_back(state, reached=self._before)

    def go_back(self, state: Mapping[str, Any] | None) -> None:
        """This process lost the trainer and goes on from a checkpoint."""
        self.note()
        self._cost.go_back(state)


def cores_here() -> DevicesInUse:
    """Return the cores that processes of this host may use, which the actors share in turn."""
    return DevicesInUse(unit="core_s", number=float(len(os.sched_getaffinity(0))))


def _replace(path: Path, text: str) -> None:
    """Replace a file in one rename; it survives a killed process, though not a power failure."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text + "\n", encoding="utf-8")
    scratch.replace(path)


def _read(path: Path) -> tuple[Sums, Sums]:
    if not path.exists():
        return {}, {}
    try:
        record = read_json(path)
        return tuple(  # type: ignore[return-value]
            {str(name): float(amount) for name, amount in record[part].items()}
            for part in ("spent", "lost")
        )
    except (DataError, KeyError, TypeError, ValueError, AttributeError) as error:
        log.warning("%s: not the record of a run's cost (%s); it begins anew", path, error)
        return {}, {}
