"""How the parts of online preference learning come to be, side by side, and how they end.

Owns assembly. Refuses to own the checks (plan.py), what samples and judges
(sampling/own_samples.py) and the steps (sampling/online_job.py).
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from rlpost.algorithms.advantages import GroupStatistics, group_statistics, rewards_matrix
from rlpost.stages.preference.online.job import PairBatches
from rlpost.stages.preference.online.pairs import pair_of
from rlpost.stages.preference.online.plan import OnlinePlan
from rlpost.stages.preference.reference import LiveReference
from rlpost.stages.run import Run
from rlpost.stages.sampling.online_job import OnlineJob
from rlpost.stages.sampling.own_samples import OwnSamples
from rlpost.stages.sampling.probe import probe_of
from rlpost.stages.sampling.prompt_stream import prompt_stream
from rlpost.stages.start_reference import require_same_start, score_beside, start_reference
from rlpost.types import Group
from rlpost.verifiers.golds import GoldWatch


@asynccontextmanager
async def boot_online(plan: OnlinePlan, run: Run) -> AsyncIterator[OnlineJob]:
    """Start actors side by side, yield the job, close everything.

    Raises:
        UserError: not every actor fits into the cluster.
        InfrastructureError: an actor did not come up.
    """
    cfg, sampling = plan.cfg, plan.sampling
    sampling.log_skipped()
    own = OwnSamples(sampling, cfg, run)
    started = await run.start(plan.roles, supervised=own.boot)
    groups = dict(zip((role.name for role in plan.roles), started, strict=True))
    policy, frozen = groups["trainer"], groups.get("reference")

    def useful(group: Group) -> bool:
        return pair_of(group, seed=cfg.seed) is not None

    def statistics(groups: Sequence[Group]) -> GroupStatistics:
        return group_statistics(rewards_matrix([group.rewards for group in groups]))

    try:
        parts = own.parts(
            policy,
            groups.get("verifiers"),
            rewards=groups.get("rewards"),
            prompts_per_step=cfg.examples_per_step,
            stream=lambda cursor: prompt_stream(
                cfg,
                sampling.train_set,
                cursor,
                useful=useful,
                max_draws=cfg.pairing.max_rounds * cfg.examples_per_step,
            ),
            statistics=statistics,
        )
        score = None
        if cfg.loss.needs_reference:
            reference = start_reference(frozen, policy=policy)
            score = score_beside(reference, policy=policy, cfg=cfg.cluster)
            if plan.has_adapter and cfg.reference.path is None:
                sequences = probe_of(sampling.train_set, cfg.weights)
                await require_same_start(score, policy=policy, sequences=sequences, cfg=cfg.trainer)
        data = [rows for rows in (sampling.train_set, sampling.heldout_set) if rows is not None]
        with GoldWatch(sampling.verifiers, data, warn=run.warn):
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
    finally:
        await own.close()
