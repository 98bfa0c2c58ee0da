"""The order of things in a run, whatever the stage.

Owns when a step, an evaluation, a checkpoint and the export happen. Refuses to own what they do
(a stage's Job), saving and going back (progress.py), set-up and signals (driver.py).
Invariants: a checkpoint holds the state after a whole step; a lost trained group costs the steps
since the last checkpoint and nothing else; the person is heard between whole units of work.
"""

import time
from typing import Protocol

from rlpost.errors import GroupLost, NothingLearned, NothingToPrefer, VerifiersFailing
from rlpost.stages.performance import performance
from rlpost.stages.progress import Progress
from rlpost.stages.run import Run
from rlpost.stages.step_record import StepRecord
from rlpost.tracking.tracker import RunStatus


class Interrupted(Exception):
    """The person asked to stop; raised only between whole units of work."""


class Job(Protocol):
    """What a stage does. ``run.step`` counts completed steps."""

    async def begin(self, record: StepRecord) -> None:
        """Make everything ready for the next step; called first, and after each return."""

    async def step(self, record: StepRecord) -> None:
        """Do step ``run.step + 1``, whole.

        Raises:
            Interrupted: the person asked to stop while it waited; nothing was trained.
            NothingLearned, VerifiersFailing, NothingToPrefer: it makes no sense to go on.
        """

    async def evaluate(self, record: StepRecord) -> bool:
        """Measure the weights of ``run.step``; False: there is nothing to measure them on."""

    async def export(self) -> None:
        """Write the result."""

    async def halt(self) -> None:
        """End what goes on behind the loop: before a return, and at the end."""


async def run_loop(job: Job, run: Run) -> RunStatus:
    """Go on until ``trainer.steps``, saving on the way; see the module's invariants.

    Raises:
        RunFailed: the run cannot go on.
    """
    progress = Progress(run, halt=job.halt)
    try:
        await progress.resume()
        while True:
            try:
                return await _steps(job, run, progress)
            except GroupLost as error:
                await progress.go_back(error)
    finally:
        await job.halt()
        run.cost.note()


async def _steps(job: Job, run: Run, progress: Progress) -> RunStatus:
    span = run.tracker.span
    record = StepRecord(
        lambda name, start_s, end_s: span("driver", name, start_s=start_s, end_s=end_s)
    )
    try:
        await job.begin(record)
        while True:
            if progress.evaluation_due():
                before = set(record.metrics)
                measured = await job.evaluate(record)
                found = {n: v for n, v in record.metrics.items() if measured and n not in before}
                progress.evaluated(found)
                if measured:
                    _report(run, record)
            record.take()
            start_s = time.monotonic()
            if progress.save_due():
                with record.timed("save_checkpoint"):  # training stops for the copy
                    await progress.begin_save()
            if progress.complete:
                break
            if run.stop.is_set():
                raise Interrupted
            await job.step(record)
            progress.end_save()
            progress.finish_step()
            record.add(performance(record.metrics, time.monotonic() - start_s))
            _report(run, record)
    except Interrupted:
        await progress.save_steps()
        return RunStatus.interrupted
    except (NothingLearned, VerifiersFailing, NothingToPrefer):
        await progress.save_steps()
        raise
    await progress.saved()
    await progress.choose_exported()
    run.cost.note()
    await job.export()
    return RunStatus.done


def _report(run: Run, record: StepRecord) -> None:
    """Hand the record to the trackers, and to the ledger."""
    run.cost.note(record.metrics)
    record.add({"training/global_step": float(run.step), **run.cost.metrics()})
    run.tracker.log(run.step, record.take())
