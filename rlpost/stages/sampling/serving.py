"""Generators that serve the policy of a run: the push before they answer, and the wait for them.

Owns what a job does around both. Refuses to own the push (weights/bus.py) and what is asked of
generators. Invariant: a wait for generators ends when the person interrupts the run, and when the
trainer is gone.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from rlpost.stages.loop import Interrupted
from rlpost.stages.run import Run
from rlpost.stages.step_record import StepRecord
from rlpost.tracking.tracker import Phase
from rlpost.weights.bus import WeightBus

T = TypeVar("T")


async def push_policy(bus: WeightBus, *, run: Run, record: StepRecord) -> None:
    """Have every generator serve what the trainer holds now, and record what that took.

    Raises:
        WeightPushError: no generator took it.
        GroupLost: the trainer is gone.
    """
    run.tracker.phase(Phase.pushing_weights)
    with record.timed("update_weights"):
        report = await bus.publish()
    record.add(report.metrics())
    run.progress(f"push of version {report.version}")


async def wait_for_generators(work: Awaitable[T], *, bus: WeightBus, run: Run) -> T:
    """Await what generators do; it may be thrown away.

    Raises:
        Interrupted: the person asked to stop.
        GroupLost: generators need the trainer to go on, and it is gone.
    """
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(run.stop.wait())
    lost = asyncio.ensure_future(bus.trainer_lost())
    try:
        await asyncio.wait({task, stopped, lost}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if lost.done():
            raise lost.result()
        raise Interrupted
    finally:
        for each in (task, stopped, lost):
            each.cancel()
