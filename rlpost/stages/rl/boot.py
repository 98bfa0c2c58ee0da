"""How the parts of an RL run come to be, side by side, and how they end.

Owns assembly and the end of generators and verifiers. Refuses to own the checks (plan.py) and
the steps (job.py).
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from rlpost.algorithms.kl_controller import KLController
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.config.schema import Anchor
from rlpost.control.learning import Learning
from rlpost.control.ledger import Ledger
from rlpost.control.staleness import Staleness
from rlpost.data.cursor import PromptCursor
from rlpost.rollout.collector import GroupJudge
from rlpost.rollout.producer import Producer
from rlpost.stages.rl.job import RLJob
from rlpost.stages.rl.parts import RLParts
from rlpost.stages.rl.plan import RLPlan
from rlpost.stages.rl.prompt_source import training_source
from rlpost.stages.roles import close_all
from rlpost.stages.run import Run
from rlpost.stages.sampling.examiner import Examiner
from rlpost.stages.sampling.generation import Generation
from rlpost.stages.sampling.probe import probe_of
from rlpost.stages.scale_request import requested_generators
from rlpost.verifiers.golds import GoldWatch

log = logging.getLogger(__name__)


@asynccontextmanager
async def boot(plan: RLPlan, run: Run) -> AsyncIterator[RLJob]:
    """Start actors side by side, yield the job, close everything.

    Raises:
        UserError: not every actor fits into the cluster.
        InfrastructureError: an actor did not come up.
    """
    cfg = plan.cfg
    _log_skipped_rows(plan)
    assert run.session is not None
    groups_at_once = -(-2 * plan.generator.max_num_seqs // cfg.rollout.group_size)
    generation = Generation(
        run.session,
        plan.generator,
        model_path=plan.model_path,
        cluster=cfg.cluster,
        failures=cfg.failures,
        watchdog=run.watchdog,
        permits=groups_at_once,
        span=lambda lane, name, start_s, end_s: run.tracker.span(
            lane, name, start_s=start_s, end_s=end_s
        ),
        wanted=requested_generators(run.directory.scale_request),
    )
    objective = PolicyObjective(
        loss=cfg.loss,
        kl=cfg.algorithm.kl,
        entropy_coefficient=cfg.algorithm.entropy_coefficient,
        corrections=cfg.algorithm.corrections,
        proximal=cfg.algorithm.anchor is Anchor.proximal,
    )
    started = await run.start(plan.roles, supervised=generation.supervisor.boot)
    groups = dict(zip((role.name for role in plan.roles), started, strict=True))
    trainer, verifiers, rewards = groups["trainer"], groups["verifiers"], groups.get("rewards")
    cursor = PromptCursor(
        len(plan.train_set),
        seed=cfg.seed,
        shuffle=cfg.data.shuffle,
        fingerprint=plan.train_set.fingerprint,
    )
    ledger = Ledger()
    staleness = Staleness(cfg.rl, batch=cfg.rollout.prompts_per_step)
    judges: list[GroupJudge] = [verifiers, *([] if rewards is None else [rewards])]
    collecting = partial(
        generation.collector,
        on_verifier_error=cfg.rollout.on_verifier_error,
        finished=run.progress,
    )
    collector = collecting(
        judges, combination=cfg.combination, purpose="train", interruption=plan.interruption
    )
    try:
        parts = RLParts(
            cfg=cfg,
            run=run,
            train_set=plan.train_set,
            heldout_set=plan.heldout_set,
            cursor=cursor,
            ledger=ledger,
            staleness=staleness,
            fleet=generation.fleet,
            supervisor=generation.supervisor,
            producer=Producer(
                training_source(cfg, plan.train_set, cursor),
                collector=collector,
                ledger=ledger,
                staleness=staleness,
            ),
            collector=collector,
            examiner=Examiner(
                collector=collecting(
                    [verifiers],
                    combination=cfg.combination.measuring(plan.verifiers),
                    purpose="heldout",
                ),
                sampling=replace(cfg.rollout.sampling, temperature=cfg.evaluation.temperature),
                samples=cfg.evaluation.samples,
                seed=cfg.seed,
            ),
            trainer=trainer,
            critic=groups.get("critic"),
            reference=groups.get("reference"),
            rewards=rewards,
            objective=objective,
            kl_controller=KLController(cfg.algorithm.kl.coefficient, cfg.algorithm.kl.adaptive),
            learning=Learning(cfg.failures),
            bus=generation.bus(
                trainer.source,
                trainer=cfg.trainer,
                weights=cfg.weights,
                probe=probe_of(plan.train_set, cfg.weights),
            ),
        )
        data = [rows for rows in (plan.train_set, plan.heldout_set) if rows is not None]
        with GoldWatch(plan.verifiers, data, warn=run.warn):
            yield RLJob(parts)
    finally:
        await close_all([generation.supervisor, verifiers])


def _log_skipped_rows(plan: RLPlan) -> None:
    for dataset in filter(None, (plan.train_set, plan.heldout_set)):
        if dataset.skipped:
            log.warning("%s: skipped %d rows", dataset.name, len(dataset.skipped))
        for reason in dataset.skipped:
            log.info("skipped: %s", reason)
