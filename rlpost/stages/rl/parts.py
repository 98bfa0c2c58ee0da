"""The parts of an RL run, booted side by side.

Owns assembly and tear-down. Refuses to own the checks (plan.py) and the loop (loop.py).
"""

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from rlpost.algorithms.kl_controller import KLController
from rlpost.checkpoint.store import CheckpointStore
from rlpost.cluster.critic import CriticGroup, spawn_critic
from rlpost.cluster.generators import GeneratorFactory
from rlpost.cluster.reward import JointJudge, RewardGroup, spawn_reward
from rlpost.cluster.session import Session
from rlpost.cluster.supervision import Supervisor, generator_name
from rlpost.cluster.trainers import (
    ReferenceGroup,
    TrainerGroup,
    sender_settings,
    spawn_reference,
    spawn_trainers,
)
from rlpost.cluster.verifiers import RemoteVerifiers, spawn_verifiers
from rlpost.config.schema import RLConfig
from rlpost.control.failures import Budget
from rlpost.control.fleet import Fleet
from rlpost.control.ledger import Ledger
from rlpost.control.slots import picture
from rlpost.control.staleness import Staleness
from rlpost.control.watchdog import Watchdog
from rlpost.data.cursor import PromptCursor, parse_uid
from rlpost.data.dataset import PromptDataset
from rlpost.errors import GroupLost, RunFailed
from rlpost.models.card import write_model_card
from rlpost.rollout.collector import Collector, Judge
from rlpost.rollout.dispatch import Dispatcher
from rlpost.rollout.interruption import Interruption
from rlpost.rollout.producer import Producer
from rlpost.rollout.protocol import RestartableGenerator
from rlpost.rollout.signal import Signal
from rlpost.rollout.vllm_generator import GeneratorDtype
from rlpost.stages.rl.plan import RLPlan
from rlpost.stages.rl.prompt_source import training_source
from rlpost.stages.rl.slots import actors_of
from rlpost.stages.run_directory import RunDirectory, config_hash
from rlpost.stages.scale_request import requested_generators
from rlpost.tracking.boundary import attempt
from rlpost.tracking.files.jsonl import read_metrics
from rlpost.tracking.progress import heldout_change
from rlpost.tracking.tracker import Trackers
from rlpost.training.objective import Objective
from rlpost.training.precision import resolve_dtype
from rlpost.training.settings import TrainerConfig
from rlpost.types import Prompt, SamplingConfig
from rlpost.weights.bus import WeightBus
from rlpost.weights.publisher import Transport, WeightsConfig
from rlpost.weights.push import BusConfig

log = logging.getLogger(__name__)


class CanSleep(Protocol):
    """A group of actors whose model can leave memory while it waits."""

    async def sleep(self) -> int:
        """Leave until the next verb, which brings it back; returns the bytes."""


async def sleep_all(*models: CanSleep | None) -> int:
    """Have all that exist leave memory, side by side; returns the bytes."""
    return sum(await asyncio.gather(*(model.sleep() for model in models if model is not None)))


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
    staleness: Staleness
    fleet: Fleet
    supervisor: Supervisor
    producer: Producer
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
    watchdog: Watchdog
    resume_from: Path | None

    @property
    def trained_groups(self) -> Mapping[str, TrainerGroup | CriticGroup]:
        """What learns and is saved, by the name of its directory in a checkpoint."""
        critic = {} if self.critic is None else {"critic": self.critic}
        return {"trainer": self.trainer, **critic}

    @property
    def evaluation_sampling(self) -> SamplingConfig:
        rollout = self.cfg.rollout
        return replace(rollout.sampling, temperature=self.cfg.evaluation.temperature)

    def find_prompt(self, uid: str) -> Prompt:
        """Return the training prompt of a uid."""
        return self.train_set.prompt(*parse_uid(uid))

    def progress(self, what: str) -> None:
        """Something was finished: the run is not stuck."""
        self.watchdog.progress(what, now_s=time.monotonic())

    def warn(self, message: str) -> None:
        """Tell the person something that does not stop the run."""
        log.warning(message)

    async def export(self, step: int) -> None:
        """Write ``export/``, replacing an earlier one only when the new one is complete.

        Raises:
            GroupLost: the trainer is gone.
            RunFailed: it could not be written; says how to try again.
        """
        try:
            await self._write_export(step)
        except GroupLost:
            raise
        except Exception as error:
            raise RunFailed(
                f"the model of step {step} could not be exported: {error}. Nothing is lost: "
                f"training is saved in {self.store.latest(hashes=False)}. Mend the cause and run "
                "the same command again, which exports without training again"
            ) from error

    async def _write_export(self, step: int) -> None:
        final, metrics = self.directory.export, self.directory.metrics
        scratch = final.with_name(".export-scratch")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        await self.trainer.export(scratch)
        write_model_card(
            scratch,
            base=self.cfg.model.path,
            stage="rl",
            step=step,
            run=self.directory.root.name,
            location=final,
            system_prompt=self.cfg.data.system_prompt,
            measured=attempt("reading the metrics", lambda: heldout_change(read_metrics(metrics))),
        )
        shutil.rmtree(final, ignore_errors=True)
        scratch.rename(final)


@asynccontextmanager
async def boot(plan: RLPlan, *, session: Session, tracker: Trackers) -> AsyncIterator[RLParts]:
    """Start actors side by side, yield the parts, close everything.

    Raises:
        UserError: not every actor fits into the cluster.
        InfrastructureError: an actor did not come up.
    """
    cfg = plan.cfg
    common = {"call_timeout_s": cfg.cluster.call_timeout_s}
    for line in picture(session.place(actors_of(plan))):
        log.info("slots: %s", line)
    generation = Generation(plan, session, tracker)
    trainer = spawn_trainers(session, cfg.trainer, **common)
    verifiers = spawn_verifiers(session, cfg.cluster, configs=plan.verifiers, decode=plan.decode)
    critic = spawn_critic(session, cfg.trainer, **common) if cfg.critic.enabled else None
    objective = Objective(
        loss=cfg.loss,
        kl=cfg.algorithm.kl,
        entropy_coefficient=cfg.algorithm.entropy_coefficient,
        corrections=cfg.algorithm.corrections,
    )
    reference = rewards = None
    if objective.needs_reference:
        reference = spawn_reference(session, cfg.trainer, model_path=plan.model_path, **common)
        await _settle(cfg, reference)
    if cfg.reward_models:
        rewards = spawn_reward(
            session,
            cfg.reward_models,
            model_paths=plan.reward_paths,
            policy_path=plan.model_path,
            **common,
        )
        await _settle(cfg, rewards)
    await _setup(plan, generation.supervisor, trainer, critic)
    cursor = PromptCursor(
        len(plan.train_set),
        seed=cfg.seed,
        shuffle=cfg.data.shuffle,
        fingerprint=plan.train_set.fingerprint,
    )
    ledger = Ledger()
    staleness = Staleness(cfg.rl, batch=cfg.rollout.prompts_per_step)
    judge = _judge(plan, verifiers, rewards)
    collector = generation.collector(judge, purpose="train", interruption=plan.interruption)
    try:
        yield RLParts(
            cfg=cfg,
            config_hash=config_hash(plan.resolved),
            directory=plan.directory,
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
            examiner=generation.collector(verifiers.measuring(), purpose="heldout"),
            trainer=trainer,
            critic=critic,
            reference=reference,
            rewards=rewards,
            objective=objective,
            kl_controller=KLController(cfg.algorithm.kl.coefficient, cfg.algorithm.kl.adaptive),
            bus=generation.bus(trainer),
            store=plan.store,
            tracker=tracker,
            watchdog=generation.watchdog,
            resume_from=plan.resume_from,
        )
    finally:
        await generation.supervisor.close()
        await _close([trainer, verifiers, *filter(None, [critic])])


class Generation:
    """What samples and judges: fleet, supervisor, dispatcher, and what they share."""

    def __init__(self, plan: RLPlan, session: Session, tracker: Trackers) -> None:
        cfg = plan.cfg
        self._plan = plan
        self._signal = Signal()
        self._budget = Budget(
            cfg.failures.failures_in_a_row, of="failures", field="failures.failures_in_a_row"
        )
        self._generators: dict[str, RestartableGenerator] = {}
        self._workers: dict[str, int] = {}
        names = [generator_name(index) for index in range(plan.generator.num)]
        self.fleet = Fleet(names, missed_until_dead=cfg.failures.missed_pings)
        self.watchdog = Watchdog(stuck_after_s=cfg.failures.stuck_after_s, now_s=time.monotonic())
        groups_at_once = -(-2 * plan.generator.max_num_seqs // cfg.rollout.group_size)
        self._dispatcher = Dispatcher(
            self.fleet,
            self._generators,
            signal=self._signal,
            permits=groups_at_once,
            span=lambda lane, name, start_s, end_s: tracker.span(
                lane, name, start_s=start_s, end_s=end_s
            ),
        )
        self.supervisor = Supervisor(
            self.fleet,
            self._generators,
            workers=self._workers,
            spawn=GeneratorFactory(
                session,
                plan.generator,
                model_path=plan.model_path,
                call_timeout_s=cfg.cluster.call_timeout_s,
                ping_timeout_s=cfg.failures.ping_timeout_s,
            ),
            dispatcher=self._dispatcher,
            signal=self._signal,
            failures=cfg.failures,
            budget=self._budget,
            watchdog=self.watchdog,
            wanted=requested_generators(plan.directory.scale_request),
        )

    def progress(self, what: str) -> None:
        """Something was finished: the run is not stuck."""
        self.watchdog.progress(what, now_s=time.monotonic())

    def collector(
        self, judge: Judge, *, purpose: str, interruption: Interruption | None = None
    ) -> Collector:
        """Return what samples groups and has them judged by ``judge``."""
        cfg = self._plan.cfg
        return Collector(
            self._dispatcher,
            judge=judge,
            purpose=purpose,
            on_verifier_error=cfg.rollout.on_verifier_error,
            failures=cfg.failures,
            budget=self._budget,
            interruption=interruption,
            finished=self.progress,
        )

    def bus(self, trainer: TrainerGroup) -> WeightBus:
        """Return the bus from ``trainer`` to the fleet."""
        plan, weights = self._plan, self._plan.cfg.weights
        float32 = plan.generator.dtype is GeneratorDtype.float32
        trainer_float32 = str(resolve_dtype(plan.cfg.trainer.dtype)) == "torch.float32"
        return WeightBus(
            trainer,
            fleet=self.fleet,
            receivers=self._generators,
            workers=self._workers,
            probe=_probe(plan.train_set, weights),
            cfg=BusConfig(
                exact=float32 and trainer_float32,
                max_diff=weights.probe_max_diff,
                timeout_s=weights.timeout_s,
                boot_timeout_s=2 * plan.generator.setup_timeout_s,
            ),
            changed=self._signal.wait,
        )


def _probe(prompts: PromptDataset, cfg: WeightsConfig) -> list[list[int]]:
    """Take the ends of the first prompts.

    A prompt that is shorter is repeated: a probe compares a log-prob of each token but the
    first, so it needs at least two.
    """
    sequences = []
    for row in range(min(cfg.probe_sequences, len(prompts))):
        ids = prompts.prompt(0, row).token_ids
        repeats = -(-cfg.probe_tokens // len(ids)) if len(ids) < 2 else 1
        sequences.append(list(ids * repeats)[-cfg.probe_tokens :])
    return sequences


def _judge(plan: RLPlan, verifiers: RemoteVerifiers, rewards: RewardGroup | None) -> Judge:
    if rewards is None:
        return verifiers
    weights = {name: each.weight for name, each in plan.verifiers.items()}
    weights |= {name: each.weight for name, each in plan.cfg.reward_models.items()}
    return JointJudge([verifiers, rewards], weights=weights)


async def _setup(
    plan: RLPlan, supervisor: Supervisor, trainer: TrainerGroup, critic: CriticGroup | None
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
        trainer.setup(policy_cfg, model_path=plan.model_path, seed=cfg.seed, sender=sender),
    ]
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
