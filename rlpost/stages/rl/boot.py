"""How the parts of an RL run come to be, side by side, and how they end.

Owns assembly and tear-down. Refuses to own the checks (plan.py) and the steps (job.py).
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from rlpost.algorithms.kl_controller import KLController
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.cluster.supervision import Supervisor
from rlpost.cluster.trained import TrainedGroup, sender_settings
from rlpost.cluster.verifiers import spawn_verifiers
from rlpost.config.schema import Anchor, RLConfig
from rlpost.control.learning import Learning
from rlpost.control.ledger import Ledger
from rlpost.control.placement import picture
from rlpost.control.staleness import Staleness
from rlpost.data.cursor import PromptCursor
from rlpost.rollout.collector import GroupJudge
from rlpost.rollout.producer import Producer
from rlpost.stages.rl.generation import Generation
from rlpost.stages.rl.job import RLJob
from rlpost.stages.rl.parts import CanSleep, RLParts, sleep_all
from rlpost.stages.rl.plan import RLPlan
from rlpost.stages.rl.prompt_source import training_source
from rlpost.stages.roles import actors_of
from rlpost.stages.run import Run
from rlpost.training.model.loading import TrainedModel
from rlpost.training.settings import TrainerConfig
from rlpost.verifiers.golds import GoldWatch
from rlpost.weights.publisher import Transport

log = logging.getLogger(__name__)


@asynccontextmanager
async def boot(plan: RLPlan, run: Run) -> AsyncIterator[RLJob]:
    """Start actors side by side, yield the job, close everything.

    Raises:
        UserError: not every actor fits into the cluster.
        InfrastructureError: an actor did not come up.
    """
    cfg, session = plan.cfg, run.session
    assert session is not None
    _log_skipped_rows(plan)
    for line in picture(session.place(actors_of(plan.roles))):
        log.info("slots: %s", line)
    generation = Generation(plan, run)
    verifiers = spawn_verifiers(session, cfg.cluster, configs=plan.verifiers, decode=plan.decode)
    objective = PolicyObjective(
        loss=cfg.loss,
        kl=cfg.algorithm.kl,
        entropy_coefficient=cfg.algorithm.entropy_coefficient,
        corrections=cfg.algorithm.corrections,
        proximal=cfg.algorithm.anchor is Anchor.proximal,
    )
    groups = {}
    for role in plan.roles:
        if role.spawn is not None:
            groups[role.name] = role.spawn(session)
            if not role.trained:  # it loads at once
                await _settle(cfg, groups[role.name])
    trainer, critic, rewards = groups["trainer"], groups.get("critic"), groups.get("rewards")
    policy = TrainedModel.policy(plan.model_path, cfg.trainer)
    await _setup(plan, policy, generation.supervisor, trainer, critic)
    cursor = PromptCursor(
        len(plan.train_set),
        seed=cfg.seed,
        shuffle=cfg.data.shuffle,
        fingerprint=plan.train_set.fingerprint,
    )
    ledger = Ledger()
    staleness = Staleness(cfg.rl, batch=cfg.rollout.prompts_per_step)
    judges: list[GroupJudge] = [verifiers, *([] if rewards is None else [rewards])]
    collector = generation.collector(
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
            examiner=generation.collector(
                [verifiers],
                combination=cfg.combination.measuring(plan.verifiers),
                purpose="heldout",
            ),
            trainer=trainer,
            critic=critic,
            reference=groups.get("reference"),
            rewards=rewards,
            objective=objective,
            kl_controller=KLController(cfg.algorithm.kl.coefficient, cfg.algorithm.kl.adaptive),
            learning=Learning(cfg.failures),
            bus=generation.bus(trainer.source),
        )
        data = [rows for rows in (plan.train_set, plan.heldout_set) if rows is not None]
        with GoldWatch(plan.verifiers, data, warn=run.warn):
            yield RLJob(parts)
    finally:
        await generation.supervisor.close()
        await _close([trainer, verifiers, *filter(None, [critic])])


def _log_skipped_rows(plan: RLPlan) -> None:
    for dataset in filter(None, (plan.train_set, plan.heldout_set)):
        if dataset.skipped:
            log.warning("%s: skipped %d rows", dataset.name, len(dataset.skipped))
        for reason in dataset.skipped:
            log.info("skipped: %s", reason)


async def _setup(
    plan: RLPlan,
    policy: TrainedModel,
    supervisor: Supervisor,
    trainer: TrainedGroup,
    critic: TrainedGroup | None,
) -> None:
    """Boot generators, trainer and critic side by side, or in turn where memory is short."""
    cfg = plan.cfg
    transport = cfg.weights.transport
    if transport is Transport.auto:
        one_host = cfg.cluster.address is None
        transport = Transport.shared_memory if one_host else Transport.gloo
    sender = sender_settings(
        transport=transport,
        run_id=plan.directory.host_wide_id,
        root=plan.directory.root / ".weights",
        timeout_s=cfg.weights.timeout_s,
    )
    # The policy's schedule begins with its first update, after the critic's head start.
    alone = cfg.critic.warmup_only_steps
    policy_cfg = _per_update(replace(cfg.trainer, steps=cfg.trainer.steps - alone), cfg)
    setups: list[Any] = [
        trainer.setup(policy_cfg, model=policy, seed=cfg.seed, sender=sender),
    ]
    if critic is not None:
        critic_cfg = _per_update(cfg.critic.trainer(cfg.trainer), cfg)
        setups.append(
            critic.setup(
                critic_cfg,
                model=TrainedModel.critic(plan.critic_path, policy_path=plan.model_path),
                seed=cfg.seed,
            )
        )
    if cfg.cluster.offload_idle:
        await asyncio.gather(*setups)
        await _settle(cfg, trainer, critic)
        setups = []
    infos, *_ = await asyncio.gather(supervisor.boot(), *setups)
    for name, info in infos.items():
        log.info("%s: %s", name, info)


async def _settle(cfg: RLConfig, *models: CanSleep | None) -> None:
    """Have models that were just loaded make room for the next, where memory is short."""
    if cfg.cluster.offload_idle:
        await sleep_all(*models)


def _per_update(trainer: TrainerConfig, cfg: RLConfig) -> TrainerConfig:
    """The trainer's schedule counts optimizer updates; the configuration counts steps."""
    updates = cfg.algorithm.updates_per_step
    return replace(
        trainer, steps=trainer.steps * updates, warmup_steps=trainer.warmup_steps * updates
    )


async def _close(parts: list[Any]) -> None:
    """Close in parallel; whoever does not answer is killed with the session."""
    results = await asyncio.gather(*(p.close() for p in parts), return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            log.warning("closing: %s", result)
