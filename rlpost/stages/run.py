"""One run of a stage: what its parts, its loop and its driver share.

Owns the registration of what is trained and what checkpoints hold, and the end of what was
started. Refuses to own the order of steps (loop.py), saving (progress.py) and every decision of a
stage.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rlpost.checkpoint.store import CheckpointConfig, CheckpointStore
from rlpost.cluster.session import ClusterConfig, Session
from rlpost.config.schema import RunConfig
from rlpost.control.cost import DevicesInUse
from rlpost.control.early_stopping import EarlyStoppingConfig
from rlpost.control.failures import RestartConfig
from rlpost.control.watchdog import Watchdog
from rlpost.errors import RunStuck
from rlpost.stages.ledger import CostLedger, cores_here
from rlpost.stages.results import EvaluationSchedule, ExportConfig
from rlpost.stages.roles import CanClose, First, Role, close_all, start_roles
from rlpost.stages.run_directory import RunDirectory
from rlpost.tracking.config import TrackingConfig
from rlpost.tracking.tracker import Trackers
from rlpost.training.packing.step_size import StepSize
from rlpost.training.settings import TrainerConfig

log = logging.getLogger(__name__)

WATCH_EVERY_S = 5.0


class Kept(Protocol):
    """State that belongs to checkpoints."""

    def state_dict(self) -> Any:
        """Return the state of this moment, in JSON types.

        Where that takes long it may return a function that makes them of values that nobody
        changes later: most snapshots are never written.
        """

    def load_state_dict(self, state: Any) -> None:
        """Restore what was returned."""


K = TypeVar("K", bound=Kept)


class Trained(CanClose, Protocol):
    """A group of ranks that learns: what saving and going back need of it."""

    async def restart(self) -> None:
        """Replace every rank, with the weights that the stage started from."""

    async def begin_save(self, directory: Path) -> None:
        """Copy the state; files are written behind other work."""

    async def finish_save(self) -> None:
        """Wait for the files."""

    async def load(self, directory: Path) -> None:
        """Restore what was saved."""


class StageConfig(Protocol):
    """The options that every stage with a loop has."""

    run: RunConfig
    seed: int
    resume: str  # auto, never or a checkpoint
    trainer: TrainerConfig
    evaluation: EvaluationSchedule
    early_stopping: EarlyStoppingConfig
    checkpoint: CheckpointConfig
    export: ExportConfig
    failures: RestartConfig
    cluster: ClusterConfig
    tracking: TrackingConfig


class Plan(Protocol):
    """What the driver needs of a stage's plan: a run that passed every check."""

    cfg: Any  # a StageConfig, complete with what files and models decide
    roles: Sequence[Role]  # who exists

    @property
    def step_size(self) -> StepSize:
        """What a step packs, at most."""


@dataclass(kw_only=True)
class Run:
    """What the parts of one run share.

    Example::

        (policy,) = await run.start(plan.roles)
        cursor = run.keep("cursor", Cursor(rows, seed=cfg.seed))
    """

    cfg: StageConfig
    stage: str  # its name
    directory: RunDirectory
    store: CheckpointStore
    config_hash: str
    resume_from: Path | None  # a checkpoint; None: the run begins
    tracker: Trackers
    session: Session | None = None  # None: nothing runs in actors
    stop: asyncio.Event = field(default_factory=asyncio.Event)  # the person asked to stop
    clock: Callable[[], float] = time.monotonic
    step: int = 0  # completed; set by Progress
    exported_step: int | None = None  # whose weights are exported; set by Progress at the end
    ending: str | None = None  # why it ends before its last step; set by Progress
    trained: dict[str, Trained] = field(default_factory=dict)  # by directory in a checkpoint
    kept: dict[str, Kept] = field(default_factory=dict)  # by key in driver.json, in order
    describes: list[Callable[[], str]] = field(default_factory=list)  # for stuck.txt
    guard: Callable[[], Coroutine[Any, Any, None]] | None = None  # None: the watchdog alone
    watchdog: Watchdog = field(init=False)
    cost: CostLedger = field(init=False)

    def __post_init__(self) -> None:
        self.watchdog = Watchdog(stuck_after_s=self.cfg.failures.stuck_after_s, now_s=self.clock())
        self.cost = CostLedger(self.directory.cost, devices=self._devices, clock=self.clock)

    def _devices(self) -> DevicesInUse:
        """Return what the run occupies: its GPUs, or the cores of the driver's host."""
        num_gpus = self.session.num_gpus if self.session is not None else 0.0
        return DevicesInUse(unit="gpu_s", number=num_gpus) if num_gpus else cores_here()

    async def start(
        self,
        roles: Sequence[Role],
        *,
        supervised: Callable[[], Awaitable[None]] | None = None,
        first: First | None = None,
    ) -> list[Any]:
        """Start every role; what is trained is saved, restored and closed under its role's name.

        Arguments, returned groups and errors are those of ``start_roles``.
        """
        assert self.session is not None
        groups = await start_roles(
            roles,
            self.session,
            offload_idle=self.cfg.cluster.offload_idle,
            supervised=supervised,
            first=first,
        )
        self.trained |= {
            role.name: group for role, group in zip(roles, groups, strict=True) if role.trained
        }
        return groups

    async def aclose(self) -> None:
        """End what is trained."""
        await close_all(self.trained.values())

    def keep(self, name: str, kept: K) -> K:
        """Have the state of ``kept`` saved and restored under ``name``; returns it."""
        assert name not in self.kept, name
        self.kept[name] = kept
        return kept

    def progress(self, what: str) -> None:
        """Something was finished: the run is not stuck."""
        self.watchdog.progress(what, now_s=self.clock())

    def warn(self, message: str) -> None:
        """Tell the person something that does not stop the run."""
        log.warning(message)

    async def watch(self) -> None:
        """Look after the run until cancelled.

        Raises:
            RunStuck: nothing was finished for too long.
        """
        if self.guard is not None:
            return await self.guard()
        while True:
            stuck = self.watchdog.look(now_s=self.clock())
            if stuck is not None:
                raise RunStuck(f"the run is stuck: {stuck}")
            await asyncio.sleep(WATCH_EVERY_S)
