"""The driver process of an evaluation, from a checked configuration to an exit code.

Owns the order of set-up, answering, reporting and tear-down. Refuses to own what each does.
Invariants: nothing is written before every check passed; the first Ctrl-C or SIGTERM ends the
evaluation with every judged item saved; an evaluation whose items are all answered starts no
process.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rlpost import stop_signals
from rlpost.cluster.session import Session
from rlpost.control.watchdog import Watchdog
from rlpost.stages.device import on_its_device
from rlpost.stages.driver import RunOutcome, listen_for_signals
from rlpost.stages.evaluate.answers_file import AnswersFile, ItemKey
from rlpost.stages.evaluate.boot import EvaluationRun
from rlpost.stages.evaluate.config import EvaluateConfig
from rlpost.stages.evaluate.difficulty import write_items
from rlpost.stages.evaluate.job import open_items
from rlpost.stages.evaluate.page import write_page
from rlpost.stages.evaluate.plan import EvaluatePlan
from rlpost.stages.evaluate.provenance import require_same_provenance, write_provenance
from rlpost.stages.evaluate.results import order_of, results_of
from rlpost.stages.evaluate.table import as_text, grids_of
from rlpost.stages.evaluate.traces import write_traces
from rlpost.stages.registry import Stage
from rlpost.stages.resume_point import resume_point_of
from rlpost.stages.run_directory import RunDirectory
from rlpost.tracking.boundary import attempt
from rlpost.tracking.files.run_log import run_log
from rlpost.tracking.open import check_trackers, open_trackers
from rlpost.tracking.tracker import Phase, RunStatus, Trackers

log = logging.getLogger(__name__)


def evaluate(stage: Stage, cfg: EvaluateConfig, resolved: dict[str, Any]) -> RunOutcome:
    """Evaluate, or go on with an evaluation, in ``<run.dir>/<run.name>``.

    Raises:
        UserError: refused before anything was written.
        RunFailed, InfrastructureError: it cannot go on.
    """
    directory = RunDirectory.of(cfg.run)
    resume_point_of(cfg, resolved, stage=stage.name)
    cfg, device = on_its_device(cfg)
    plan: EvaluatePlan = stage.part("plan")(cfg, directory=directory, device=device)
    stop_signals.heed()
    file = AnswersFile(directory.evaluation, samples=cfg.samples)
    require_same_provenance(directory.provenance, plan, file)
    waiting = sum(map(len, open_items(plan, file).values()))
    check_trackers(cfg.tracking)
    with directory.lock(), run_log(directory.log) as stdout:
        directory.write_config(resolved)
        file.repair()
        write_provenance(directory.provenance, plan, file)
        tracker = open_trackers(
            directory.root,
            cfg=replace(cfg.tracking, report=False),  # of training; this stage has its own
            run_name=cfg.run.name,
            num_steps=0,
            config=resolved,
            terminal=stdout,
        )
        status = RunStatus.failed
        try:
            log.info("%d of %d items are to be answered", waiting, len(order_of(plan)))
            failed = asyncio.run(_answer(stage, plan, file, tracker)) if waiting else {}
            message = _report(plan, file, directory, tracker, failed)
            status = RunStatus.done
        except asyncio.CancelledError:  # by a signal
            status = RunStatus.interrupted
            done = sum(key in file.items for key in order_of(plan))
            message = (
                f"interrupted after {done} of {len(order_of(plan))} items, which are saved in "
                f"{file.path}; run the same command again to go on"
            )
        finally:
            tracker.close(status)
        log.info("%s: %s", status.value, message)
    return RunOutcome(status=status, message=message)


async def _answer(
    stage: Stage, plan: EvaluatePlan, file: AnswersFile, tracker: Trackers
) -> dict[ItemKey, str]:
    never = asyncio.Event()  # each answer is saved when it is judged: a signal may end it at once
    listen_for_signals(asyncio.Event(), begun=never)
    clock = time.monotonic
    watchdog = Watchdog(stuck_after_s=plan.cfg.failures.stuck_after_s, now_s=clock())
    with Session(plan.cfg.cluster) as session:
        run = EvaluationRun(
            session=session,
            tracker=tracker,
            file=file,
            clock=clock,
            watchdog=watchdog,
        )
        async with stage.part("boot")(plan, run) as evaluation:
            failed: dict[ItemKey, str] = await evaluation.answer()
            return failed


def _report(
    plan: EvaluatePlan,
    file: AnswersFile,
    directory: RunDirectory,
    tracker: Trackers,
    failed: Mapping[ItemKey, str],
) -> str:
    """Record the results and return what to tell the person."""
    file.put_in_order(order_of(plan))
    results = results_of(plan, file)
    tracker.phase(Phase.evaluating, "scores")
    tracker.log(0, results.metrics())
    lines = [as_text(grids_of(results))]
    if not plan.cfg.selection.keeps_everything:
        lines.append(write_traces(directory.dataset, plan, file))
    if not plan.cfg.difficulty.keeps_nothing:
        lines.append(write_items(directory.dataset, plan, file))
    if failed:
        (_, dataset, uid), reason = next(iter(failed.items()))
        warning = (
            f"{len(failed)} items could not be answered, first {uid} of {dataset} ({reason}); "
            "they count as not known, and the same command tries them again"
        )
        log.warning(warning)
        lines.append(f"warning: {warning}")
    if plan.cfg.tracking.report:
        attempt(
            "writing report.html",
            lambda: write_page(directory, results=results, file=file, config=plan.cfg),
        )
        lines.append(f"report: {directory.report}")
    return "\n".join(lines)
