"""Distillation on given responses as it runs: the batches and the job.

Owns the assembly. Refuses to own the loop, the objective and the measurement of held-out rows
(stages/learning/heldout.py).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from rlpost.stages.distill.heldout import heldout_divergence
from rlpost.stages.distill.prepare import DistillPlan
from rlpost.stages.distill.teacher import STAGE
from rlpost.stages.fit import Fit
from rlpost.stages.learning.account import data_used
from rlpost.stages.learning.begin import begin
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
    cfg, held = plan.cfg, plan.splits.heldout
    async with SuiteEngines(plan.suites, cfg, run, model_path=plan.model_path) as engines:
        groups, rows = await begin(plan, run, supervised=engines.boot)
        plan.teacher.say_what_is_compared()
        (student,) = engines.without_own(groups)
        packer = ExamplePacker(
            num_ranks=cfg.trainer.num_ranks,
            max_tokens=cfg.trainer.max_tokens_per_micro_batch,
            fill=cfg.trainer.packing,
            aggregation=cfg.reduction,
        )

        async def batch() -> Packed:
            return packer(rows.take())

        heldout = heldout_divergence(
            policy=student,
            packer=replace(packer, fill=True),
            sources={name: corpus.all_examples() for name, corpus in held.items()},
            progress=run.progress,
        )
        yield Fit(
            run=run,
            policy=student,
            objective=plan.objective,
            batch=batch,
            base=cfg.model.path,
            stage=STAGE,
            heldout=heldout if held else None,
            suites=engines.scores(groups),
            drawn=rows.metrics,
            data=data_used(cfg.data, plan.splits),
        )
