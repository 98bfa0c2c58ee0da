"""The driver process of a run, from a checked configuration to an exit code.

Owns the order of set-up and tear-down and what signals mean. Refuses to own the loop
(loop.py) and what a stage does.
Invariant: the first Ctrl-C or SIGTERM ends the run at the next whole unit of work, saved;
the second, and one that comes before set-up is complete, ends it at once.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rlpost import stop_signals
from rlpost.checkpoint.manifest import read_manifest
from rlpost.checkpoint.store import CheckpointStore
from rlpost.cluster.session import Session
from rlpost.errors import RunStuck
from rlpost.garbage import without_collection
from rlpost.models.origin import export_record
from rlpost.stages.device import on_its_device
from rlpost.stages.dump import write_dump
from rlpost.stages.loop import run_loop
from rlpost.stages.progress import ended_early
from rlpost.stages.registry import Stage
from rlpost.stages.resume_point import config_hash, resume_point_of
from rlpost.stages.roles import checkpoint_bytes_of
from rlpost.stages.run import Plan, Run
from rlpost.stages.run_directory import RunDirectory
from rlpost.tracking.files.run_log import run_log
from rlpost.tracking.open import check_trackers, open_trackers
from rlpost.tracking.tracker import Phase, RunStatus

log = logging.getLogger(__name__)

T = TypeVar("T")

# A launcher signals a process and its group: two signals within this time count as one.
SAME_SIGNAL_S = 1.0

EXIT_CODES = {RunStatus.done: 0, RunStatus.failed: 1, RunStatus.interrupted: 130}


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """How a run ended and what the person should know."""

    status: RunStatus
    message: str

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.status]


def run_stage(stage: Stage, cfg: Any, resolved: dict[str, Any]) -> RunOutcome:
    """Run ``stage``, or resume it, in ``<run.dir>/<run.name>``.

    Raises:
        UserError: refused before anything was written.
        RunFailed, InfrastructureError: the run cannot go on.
    """
    directory = RunDirectory.of(cfg.run)
    store = CheckpointStore(directory.checkpoints, keep=cfg.checkpoint.keep)
    resume_from = resume_point_of(cfg, resolved, stage=stage.name)
    with without_collection():  # it imports most of what a run needs
        cfg, device = on_its_device(cfg)
        plan = stage.part("plan")(cfg, directory=directory, device=device)
    stop_signals.heed()
    longer = "trainer.epochs" if cfg.trainer.steps is None else "trainer.steps"
    cfg = plan.cfg  # which has the number of steps, where data decides it
    store.require_space(checkpoint_bytes_of(plan.roles), num_kept=cfg.checkpoint.num_kept)
    step = None if resume_from is None else read_manifest(resume_from).step
    if way_on := _way_on(cfg, directory, resume_from=resume_from, step=step, longer=longer):
        return RunOutcome(
            status=RunStatus.done,
            message=f"{directory.root} is complete at step {step}: see {directory.report}; "
            f"{way_on} to train on, or choose another run.name",
        )
    check_trackers(cfg.tracking)
    with directory.lock(), run_log(directory.log) as stdout:
        directory.scale_request.unlink(missing_ok=True)  # of a process that is gone
        directory.write_config(resolved)
        tracker = open_trackers(
            directory.root,
            cfg=cfg.tracking,
            run_name=cfg.run.name,
            num_steps=cfg.trainer.steps,
            config=resolved,
            resume_step=step,
            terminal=stdout,
        )
        run = Run(
            cfg=cfg,
            stage=stage.name,
            directory=directory,
            store=store,
            config_hash=config_hash(resolved),
            resume_from=resume_from,
            tracker=tracker,
        )
        for line in _setup_words(run, plan, step=step):
            log.info("setting up: %s", line)
            tracker.phase(Phase.setting_up, line)
        status, at_once = RunStatus.failed, False
        try:
            status = asyncio.run(_drive(stage, plan, run))
        except asyncio.CancelledError:  # by a second signal
            status, at_once = RunStatus.interrupted, True
        finally:
            tracker.close(status)
        outcome = RunOutcome(status=status, message=_farewell(status, run, at_once=at_once))
        log.info("%s: %s", status.value, outcome.message)
    return outcome


def _way_on(
    cfg: Any, directory: RunDirectory, *, resume_from: Path | None, step: int | None, longer: str
) -> str | None:
    """Return which option leads on from a run that is complete; None: it is not complete.

    ``longer`` names the option that says how long the run is.
    """
    record = export_record(directory.export)
    if resume_from is None or record is None or step is None:
        return None
    if (record["run_step"], record["which"]) != (step, cfg.export.which.value):
        return None
    if step >= cfg.trainer.steps:
        return f"raise {longer}"
    return "raise early_stopping.patience" if ended_early(resume_from, cfg) else None


def _farewell(status: RunStatus, run: Run, *, at_once: bool) -> str:
    directory = run.directory
    if status is RunStatus.interrupted:
        saved = run.store.latest(hashes=False)
        where = "the last checkpoint is" if at_once else "saved as"
        where = f"{where} {saved}" if saved else "nothing was saved yet"
        on = "resume" if saved else "begin anew"
        return f"interrupted, {where}; run the same command again to {on}"
    report = f"\nreport: {directory.report}" if directory.report.exists() else ""
    why = f"{run.ending}\n" if run.ending else ""
    return f"{why}model: {directory.export}{report}"


def _setup_words(run: Run, plan: Plan, *, step: int | None) -> list[str]:
    """Return where the run goes on, if it does, and what is being started."""
    lines = []
    if step is not None:
        lines.append(f"going on after step {step} from {run.resume_from}")
    *some, last = [role.processes for role in plan.roles]
    lines.append(f"starting {', '.join(some)} and {last}" if some else f"starting {last}")
    return lines


async def _drive(stage: Stage, plan: Plan, run: Run) -> RunStatus:
    begun = asyncio.Event()
    listen_for_signals(run.stop, begun=begun)
    start = time.perf_counter()
    with Session(run.cfg.cluster, step_bytes=plan.step_size.bytes) as run.session:
        async with aclosing(run), stage.part("boot")(plan, run) as job:
            log.info("set-up took %.1f s", time.perf_counter() - start)
            begun.set()

            def dump(error: BaseException) -> None:
                if isinstance(error, RunStuck):
                    write_dump(run, run.directory.stuck, reason=str(error))

            try:
                return await guarded(run_loop(job, run), by=run.watch(), alarm=dump)
            except RunStuck as error:
                raise RunStuck(f"{error}; see {run.directory.stuck}") from error


async def guarded(
    work: Coroutine[Any, Any, T],
    *,
    by: Coroutine[Any, Any, None],
    alarm: Callable[[BaseException], None] = lambda error: None,
) -> T:
    """Await ``work`` while ``by`` looks after it; an error of either ends both.

    ``alarm`` is told an error of ``by`` while ``work`` still stands where it stood.
    """
    task, guard = asyncio.ensure_future(work), asyncio.ensure_future(by)
    try:
        await asyncio.wait({task, guard}, return_when=asyncio.FIRST_COMPLETED)
        if guard.done() and not task.done():
            if (error := guard.exception()) is not None:
                alarm(error)
            guard.result()
        return await task
    finally:
        for each in (task, guard):
            each.cancel()
        await asyncio.gather(task, guard, return_exceptions=True)


def listen_for_signals(stop: asyncio.Event, *, begun: asyncio.Event) -> None:
    """Have the first Ctrl-C or SIGTERM set ``stop``, and the second cancel the current task.

    Until ``begun`` is set there is nothing to save, so the first one cancels the task, too.
    """
    loop = asyncio.get_running_loop()
    main_task = asyncio.current_task()
    assert main_task is not None

    first_s = 0.0

    def on_signal(name: str) -> None:
        nonlocal first_s
        if stop.is_set():
            if time.monotonic() - first_s < SAME_SIGNAL_S:
                return
            log.warning("second %s: stopping without saving", name)
            main_task.cancel()
            return
        first_s = time.monotonic()
        stop.set()
        if begun.is_set():
            log.warning("%s: saving after the work in progress; again to stop at once", name)
        else:
            log.warning("%s: stopping at once", name)
            main_task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number.name)
