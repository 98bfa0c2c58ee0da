"""How the parts of online preference learning come to be, side by side, and how they end.

Owns assembly. Refuses to own the checks (plan.py), what samples and judges
(sampling/own_samples.py) and the steps (sampling/online_job.py).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rlpost.stages.preference.online.job import PairBatches
from rlpost.stages.preference.online.pairs import pair_of
from rlpost.stages.preference.online.plan import OnlinePlan
from rlpost.stages.preference.reference import LiveReference
from rlpost.stages.run import Run
from rlpost.stages.sampling.online_job import OnlineJob
from rlpost.stages.sampling.own_samples import own_samples
from rlpost.stages.sampling.probe import probe_of
from rlpost.stages.sampling.prompt_stream import prompt_stream
from rlpost.stages.start_reference import require_same_start, score_beside, start_reference
from rlpost.types import Group


@asynccontextmanager
async def boot_online(plan: OnlinePlan, run: Run) -> AsyncIterator[OnlineJob]:
    """Start actors side by side, yield the job, close everything.

    Raises:
        UserError: not every actor fits into the cluster.
        InfrastructureError: an actor did not come up.
    """
    cfg, sampling = plan.cfg, plan.sampling

    def useful(group: Group) -> bool:
        return pair_of(group, seed=cfg.seed) is not None

    async with own_samples(plan, run) as own:
        policy = own.groups["trainer"]
        parts = own.parts(
            prompts_per_step=cfg.examples_per_step,
            stream=lambda cursor: prompt_stream(
                cfg,
                sampling.train_set,
                cursor,
                useful=useful,
                max_draws=cfg.pairing.max_rounds * cfg.examples_per_step,
            ),
        )
        score = None
        if cfg.loss.needs_reference:
            reference = start_reference(own.groups.get("reference"), policy=policy)
            score = score_beside(reference, policy=policy, cfg=cfg.cluster)
            if plan.has_adapter and cfg.reference.path is None:
                sequences = probe_of(sampling.train_set, cfg.weights)
                await require_same_start(score, policy=policy, sequences=sequences, cfg=cfg.trainer)
        yield OnlineJob(
            cfg=cfg,
            data=plan.data,
            sampling=parts,
            policy=policy,
            objective=plan.objective,
            batches=PairBatches(
                cfg=cfg,
                run=run,
                reference=None if score is None else LiveReference(score=score),
                packer=plan.packer,
            ),
        )
