"""Distillation on given responses as it runs: the batches and the job.

Owns the assembly. Refuses to own the loop, the objective and the measurement of held-out rows
(stages/learning/heldout.py).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from rlpost.cluster.session import Session
from rlpost.stages.distill.heldout import heldout_divergence
from rlpost.stages.distill.prepare import DistillPlan
from rlpost.stages.distill.store import TeacherStore
from rlpost.stages.distill.storing import TaughtPacker
from rlpost.stages.fit import Fit
from rlpost.stages.learning.begin import begin, fit_of
from rlpost.stages.run import Run
from rlpost.stages.sampling.suites import SuiteEngines
from rlpost.stages.supervised.batch import ExamplePacker
from rlpost.training.packing.pack import Packed


@asynccontextmanager
async def boot(plan: DistillPlan, run: Run) -> AsyncIterator[Fit]:
    """Start the roles and yield the job.

    Raises:
        UserError: not every actor fits into the cluster, or the checkpoint is of other data.
        InfrastructureError: an actor did not come up.
    """
    cfg = plan.cfg
    async with SuiteEngines(plan.suites, cfg, run, model_path=plan.model_path) as engines:
        store: TeacherStore | None = None

        async def first(session: Session) -> None:
            nonlocal store
            if plan.stored is not None:
                store = await plan.stored.opened(session, run, cfg=cfg, splits=plan.splits)

        groups, rows = await begin(plan, run, supervised=engines.boot, first=first)
        if plan.teacher is not None:
            plan.teacher.say_what_is_compared()
        (student,) = engines.without_own(groups)
        packer = ExamplePacker.of(
            cfg.trainer, aggregation=cfg.reduction, model_path=plan.model_path
        )
        taught = TaughtPacker(examples=packer, store=store)

        async def batch() -> Packed:
            return taught(rows.take())

        heldout = heldout_divergence(
            policy=student,
            packer=replace(taught, examples=replace(packer, fill=True)),
            sources={name: each.all_examples() for name, each in plan.splits.heldout.items()},
            progress=run.progress,
        )
        suites = engines.scores(groups)
        yield fit_of(plan, run, rows, policy=student, batch=batch, heldout=heldout, suites=suites)
