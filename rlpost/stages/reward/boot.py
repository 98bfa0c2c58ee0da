"""How a reward model is trained: the role, the batches and the job.

Owns the assembly. Refuses to own the loop, the objective and what is measured on held-out rows
(heldout.py).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from rlpost.stages.fit import Fit
from rlpost.stages.learning.begin import begin, fit_of
from rlpost.stages.reward.batch import PairPacker, StepPacker
from rlpost.stages.reward.config import RewardConfig
from rlpost.stages.reward.heldout import HeldoutPairs, HeldoutSteps
from rlpost.stages.reward.prepare import RewardPlan
from rlpost.stages.run import Run
from rlpost.stages.supervised.batch import ExamplePacker
from rlpost.training.packing.pack import Packed
from rlpost.training.packing.work import ForwardWork


@asynccontextmanager
async def boot(plan: RewardPlan, run: Run) -> AsyncIterator[Fit]:
    """Start the ranks and yield the job.

    Raises:
        UserError: not every actor fits into the cluster, or the checkpoint is of other data.
        InfrastructureError: an actor did not come up.
    """
    cfg = plan.cfg
    (model,), rows = await begin(plan, run)
    packer = packer_of(cfg, model_path=plan.model_path)

    async def batch() -> Packed:
        return packer(rows.take())

    measure = HeldoutSteps if cfg.judges_steps else HeldoutPairs
    heldout = measure(
        model=model,
        packer=packer_of(
            replace(cfg, trainer=replace(cfg.trainer, packing=True)), model_path=plan.model_path
        ),
        sources={name: each.all_examples() for name, each in plan.splits.heldout.items()},
        progress=run.progress,
    )
    yield fit_of(plan, run, rows, policy=model, batch=batch, heldout=heldout)


def packer_of(cfg: RewardConfig, *, model_path: str) -> PairPacker | StepPacker:
    """Return what makes batches of rows, as the options say."""
    if cfg.judges_steps:
        return StepPacker(examples=ExamplePacker.of(cfg.trainer, model_path=model_path))
    return PairPacker(
        num_ranks=cfg.trainer.data_ranks,
        max_tokens=cfg.trainer.max_tokens_per_micro_batch,
        fill=cfg.trainer.packing,
        work=ForwardWork.of_model(model_path),
        has_margins=cfg.loss.margin_column is not None,
    )
