"""How the parts of an RL run come to be, side by side, and how they end.

Owns assembly. Refuses to own the checks (plan.py), what samples and judges
(sampling/own_samples.py) and the steps (job.py).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from rlpost.algorithms.kl_controller import KLController
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.config.schema import Anchor
from rlpost.stages.rl.batch import raw_statistics
from rlpost.stages.rl.job import RLJob
from rlpost.stages.rl.parts import RLParts
from rlpost.stages.rl.plan import RLPlan
from rlpost.stages.rl.prompt_source import training_source
from rlpost.stages.run import Run
from rlpost.stages.sampling.own_samples import own_samples
from rlpost.stages.sampling.probe import probe_of
from rlpost.stages.start_reference import require_same_start, score_beside, start_reference
from rlpost.training.packing.work import ForwardWork


@asynccontextmanager
async def boot(plan: RLPlan, run: Run) -> AsyncIterator[RLJob]:
    """Start actors side by side, yield the job, close everything.

    Raises:
        UserError: not every actor fits into the cluster.
        InfrastructureError: an actor did not come up.
    """
    cfg, sampling = plan.cfg, plan.sampling
    objective = PolicyObjective(
        loss=cfg.loss,
        kl=cfg.algorithm.kl,
        entropy_coefficient=cfg.algorithm.entropy_coefficient,
        corrections=cfg.algorithm.corrections,
        proximal=cfg.algorithm.anchor is Anchor.proximal,
    )
    async with own_samples(plan, run) as own:
        trainer, reference = own.groups["trainer"], None
        samples = own.parts(  # from here on the engines leave for who trains, where they have to
            prompts_per_step=cfg.rollout.prompts_per_step,
            stream=partial(training_source, cfg, sampling.train_set),
            statistics=partial(raw_statistics, cfg=cfg),
        )
        if cfg.algorithm.kl.needs_reference:
            reference = start_reference(own.groups.get("reference"), policy=trainer)
        if reference is not None and plan.has_adapter:
            await require_same_start(
                score_beside(reference, policy=trainer, cfg=cfg.cluster),
                policy=trainer,
                sequences=probe_of(sampling.train_set, cfg.weights),
                cfg=cfg.trainer,
            )
        yield RLJob(
            RLParts(
                cfg=cfg,
                sampling=samples,
                trainer=trainer,
                critic=own.groups.get("critic"),
                reference=reference,
                objective=objective,
                kl_controller=KLController(cfg.algorithm.kl.coefficient, cfg.algorithm.kl.adaptive),
                work=ForwardWork.of_model(plan.model_path),
            )
        )
