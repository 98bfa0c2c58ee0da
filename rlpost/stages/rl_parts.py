"""The parts of an RL run, booted side by side.

Owns assembly and tear-down. Refuses to own the checks (rl_plan.py) and the loop (rl.py).
"""

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlpost.algorithms.kl_controller import KLController
from rlpost.checkpoint.store import CheckpointStore
from rlpost.cluster.critic import CriticGroup, spawn_critic
from rlpost.cluster.generators import RemoteGenerator, spawn_generators
from rlpost.cluster.reward import JointJudge, RewardGroup, spawn_reward
from rlpost.cluster.session import Session
from rlpost.cluster.trainers import (
    ReferenceGroup,
    TrainerGroup,
    sender_settings,
    spawn_reference,
    spawn_trainers,
)
from rlpost.cluster.verifiers import spawn_verifiers
from rlpost.config.schema import RLConfig
from rlpost.control.ledger import Ledger
from rlpost.data.cursor import PromptCursor
from rlpost.data.dataset import PromptDataset
from rlpost.models.card import write_model_card
from rlpost.rollout.collector import Collector
from rlpost.rollout.vllm_generator import GeneratorDtype
from rlpost.stages.rl_plan import RLPlan
from rlpost.stages.run_directory import RunDirectory, config_hash
from rlpost.tracking.tracker import Trackers
from rlpost.training.objective import Objective
from rlpost.training.precision import resolve_dtype
from rlpost.training.settings import TrainerConfig
from rlpost.types import SamplingConfig
from rlpost.weights.bus import WeightBus
from rlpost.weights.publisher import Transport

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RLParts:
    """Everything the loop drives."""

    cfg: RLConfig
    config_hash: str
    directory: RunDirectory
    train_set: PromptDataset
    heldout_set: PromptDataset | None
    cursor: PromptCursor
    ledger: Ledger
    collector: Collector  # training: verifiers and reward models
    examiner: Collector  # evaluation: verifiers alone
    trainer: TrainerGroup
    critic: CriticGroup | None
    reference: ReferenceGroup | None
    rewards: RewardGroup | None
    objective: Objective
    kl_controller: KLController
    bus: WeightBus
    store: CheckpointStore
    tracker: Trackers
    resume_from: Path | None

    @property
    def evaluation_sampling(self) -> SamplingConfig:
        rollout = self.cfg.rollout
        return replace(rollout.sampling, temperature=self.cfg.evaluation.temperature)

    def warn(self, message: str) -> None:
        """Tell the person something that does not stop the run."""
        log.warning(message)

    async def export(self, step: int) -> None:
        """Write ``export/``, replacing an earlier one only when the new one is complete."""
        final = self.directory.export
        scratch = final.with_name(".export-scratch")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        await self.trainer.export(scratch)
        write_model_card(
            scratch, base=self.cfg.model.path, stage="rl", step=step, run=self.directory.root.name
        )
        shutil.rmtree(final, ignore_errors=True)
        scratch.rename(final)


@asynccontextmanager
async def boot(plan: RLPlan, *, session: Session, tracker: Trackers) -> AsyncIterator[RLParts]:
    """Start actors side by side, yield the parts, close everything.

    Raises:
        InfrastructureError: an actor did not come up.
    """
    cfg = plan.cfg
    common = {"device": plan.device, "call_timeout_s": cfg.cluster.call_timeout_s}
    generators = spawn_generators(session, plan.generator, model_path=plan.model_path, **common)
    trainer = spawn_trainers(session, cfg.trainer, **common)
    verifiers = spawn_verifiers(session, cfg.cluster, configs=plan.verifiers)
    objective = Objective(
        loss=cfg.loss,
        kl=cfg.algorithm.kl,
        entropy_coefficient=cfg.algorithm.entropy_coefficient,
        corrections=cfg.algorithm.corrections,
    )
    critic = spawn_critic(session, cfg.trainer, **common) if cfg.critic.enabled else None
    reference = rewards = None
    if objective.needs_reference:
        reference = spawn_reference(session, cfg.trainer, model_path=plan.model_path, **common)
    if cfg.reward_models:
        rewards = spawn_reward(
            session,
            cfg.reward_models,
            model_paths=plan.reward_paths,
            policy_path=plan.model_path,
            **common,
        )
    infos = await _setup(plan, generators, trainer, critic)
    workers = {name: info.num_workers for name, info in infos.items()}
    on_error = cfg.rollout.on_verifier_error
    judge = verifiers
    if rewards is not None:
        weights = {name: each.weight for name, each in plan.verifiers.items()}
        weights |= {name: each.weight for name, each in cfg.reward_models.items()}
        judge = JointJudge([verifiers, rewards], weights=weights)
    try:
        yield RLParts(
            cfg=cfg,
            config_hash=config_hash(plan.resolved),
            directory=plan.directory,
            train_set=plan.train_set,
            heldout_set=plan.heldout_set,
            cursor=PromptCursor(
                len(plan.train_set),
                seed=cfg.seed,
                shuffle=cfg.data.shuffle,
                fingerprint=plan.train_set.fingerprint,
            ),
            ledger=Ledger(),
            collector=Collector(generators, judge=judge, on_verifier_error=on_error),
            examiner=Collector(
                generators, judge=verifiers.counting_all(), on_verifier_error=on_error
            ),
            trainer=trainer,
            critic=critic,
            reference=reference,
            rewards=rewards,
            objective=objective,
            kl_controller=KLController(cfg.algorithm.kl.coefficient, cfg.algorithm.kl.adaptive),
            bus=_bus(plan, trainer, generators, workers),
            store=plan.store,
            tracker=tracker,
            resume_from=plan.resume_from,
        )
    finally:
        await _close([trainer, verifiers, *generators.values(), *filter(None, [critic])])


async def _setup(
    plan: RLPlan,
    generators: dict[str, RemoteGenerator],
    trainer: TrainerGroup,
    critic: CriticGroup | None,
) -> dict[str, Any]:
    cfg = plan.cfg
    transport = cfg.weights.transport
    if transport is Transport.auto:
        one_host = cfg.cluster.address is None
        transport = Transport.shared_memory if one_host else Transport.gloo
    sender = sender_settings(
        transport=transport,
        run_id=f"{plan.directory.root.name}-{os.getpid()}",
        root=plan.directory.root / ".weights",
        num_receivers=plan.generator.num * plan.generator.tensor_parallel_size,
        timeout_s=cfg.weights.timeout_s,
    )
    # The policy's schedule begins with its first update, after the critic's head start.
    alone = cfg.critic.warmup_only_steps
    policy_cfg = _per_update(replace(cfg.trainer, steps=cfg.trainer.steps - alone), cfg)
    setups = [g.setup() for g in generators.values()]
    setups.append(
        trainer.setup(policy_cfg, model_path=plan.model_path, seed=cfg.seed, sender=sender)
    )
    if critic is not None:
        critic_cfg = _per_update(cfg.critic.trainer(cfg.trainer), cfg)
        setups.append(
            critic.setup(
                critic_cfg,
                model_path=plan.critic_path,
                policy_path=plan.model_path,
                seed=cfg.seed,
            )
        )
    infos = (await asyncio.gather(*setups))[: len(generators)]
    for name, info in zip(generators, infos, strict=True):
        log.info("%s: %s", name, info)
    return dict(zip(generators, infos, strict=True))


def _per_update(trainer: TrainerConfig, cfg: RLConfig) -> TrainerConfig:
    """The trainer's schedule counts optimizer updates; the configuration counts steps."""
    updates = cfg.algorithm.updates_per_step
    return replace(
        trainer, steps=trainer.steps * updates, warmup_steps=trainer.warmup_steps * updates
    )


def _bus(
    plan: RLPlan,
    trainer: TrainerGroup,
    generators: dict[str, RemoteGenerator],
    workers: dict[str, int],
) -> WeightBus:
    weights = plan.cfg.weights
    count = min(weights.probe_sequences, len(plan.train_set))
    prompts = [plan.train_set.prompt(0, row).token_ids for row in range(count)]
    float32 = plan.generator.dtype is GeneratorDtype.float32
    trainer_float32 = str(resolve_dtype(plan.cfg.trainer.dtype)) == "torch.float32"
    return WeightBus(
        trainer,
        receivers=generators,
        workers=workers,
        probe=[ids[-weights.probe_tokens :] for ids in prompts],
        exact=float32 and trainer_float32,
        max_diff=weights.probe_max_diff,
        timeout_s=weights.timeout_s,
    )


async def _close(parts: list[Any]) -> None:
    """Close in parallel; whoever does not answer is killed with the session."""
    results = await asyncio.gather(*(p.close() for p in parts), return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            log.warning("closing: %s", result)
