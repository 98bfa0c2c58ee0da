"""One driver: the real controller around simulated processes.

Mirrors ``stages/rl/boot.py`` and ``stages/sampling/own_samples.py`` with the loop's clock; the
``Checked`` classes add nothing but calls of the checker.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from simulation import toy
from simulation.engine import RemoteEngine
from simulation.judges import Judges
from simulation.online import OnlineJob, pair_source
from simulation.trainer import TrainedGroup

from rlpost.algorithms.advantages import GRPOConfig
from rlpost.algorithms.kl_controller import KLController
from rlpost.algorithms.losses import ClipConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.algorithms.shaping import DynamicSamplingConfig
from rlpost.bounds import check_config
from rlpost.checkpoint.store import CheckpointConfig
from rlpost.cluster.supervision import Supervisor
from rlpost.cluster.verifiers import JudgedClusterConfig
from rlpost.config.schema import (
    AlgorithmConfig,
    Anchor,
    CriticRoleConfig,
    EvaluationConfig,
    RLConfig,
    RolloutConfig,
)
from rlpost.control.failures import Budget, FailureConfig
from rlpost.control.fleet import Fleet
from rlpost.control.learning import Learning
from rlpost.control.ledger import Ledger
from rlpost.control.placement import ActorSpec, Slot
from rlpost.control.staleness import Staleness, StalenessConfig
from rlpost.data.cursor import PromptCursor
from rlpost.data.dataset import PromptDataset
from rlpost.rollout.collector import Collector
from rlpost.rollout.dispatch import Dispatcher
from rlpost.rollout.interruption import Interruption
from rlpost.rollout.producer import Batch, Producer
from rlpost.rollout.signal import Signal
from rlpost.stages.driver import guarded
from rlpost.stages.loop import run_loop
from rlpost.stages.rl.batch import raw_statistics
from rlpost.stages.rl.job import RLJob
from rlpost.stages.rl.parts import RLParts
from rlpost.stages.rl.prompt_source import training_source
from rlpost.stages.roles import Role, sleep_all
from rlpost.stages.run import Run
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.sampling.examiner import Examiner
from rlpost.stages.sampling.parts import SamplingParts
from rlpost.tracking.tracker import RunStatus, Trackers
from rlpost.training.settings import TrainerConfig
from rlpost.types import Prompt
from rlpost.verifiers.combine import Combination
from rlpost.weights.bus import WeightBus
from rlpost.weights.protocol import BusConfig
from rlpost.weights.transports.protocol import Seat

FAILURES = FailureConfig(
    ping_every_s=3.0, ping_timeout_s=4.0, max_backoff_s=4.0, stuck_after_s=600.0
)
PUSH_TIMEOUT_S = 20.0


class CheckedLedger(Ledger):
    """Tells the checker who comes and goes."""

    checker: Any = None

    def admit(self, uid: str) -> None:
        super().admit(uid)
        self.checker.admitted(uid)

    def consume(self, uid: str, step: int) -> None:
        super().consume(uid, step)
        self.checker.ended(uid, "consumed")

    def drop(self, uid: str, reason: str) -> None:
        super().drop(uid, reason)
        self.checker.ended(uid, f"dropped {reason}")


class CheckedProducer(Producer):
    """Tells the checker of batches, steps and versions."""

    checker: Any = None

    async def next_batch(self) -> Batch:
        batch = await super().next_batch()
        self.checker.batch(batch)
        return batch

    def trained(self, *, step: int) -> None:
        super().trained(step=step)
        self.checker.trained(step)

    def committed(self, *, version: int, step: int) -> None:
        super().committed(version=version, step=step)
        self.checker.committed(version, step)

    def restore(self, ready: Any, *, staleness: Mapping[str, Any], version: int) -> None:
        super().restore(ready, staleness=staleness, version=version)
        self.checker._world.restored_version = version
        self.checker.restored(staleness["step"])


class CheckedDispatcher(Dispatcher):
    """Tells the checker who runs beside whom."""

    checker: Any = None

    async def generate(self, request: Any, *, alone: bool = False, **rest: Any) -> Any:
        on_start = rest.pop("on_start", lambda version: None)

        def started(version: int) -> None:
            used = self._permits[self._where[request.key]].used
            self.checker.request_sent(request.key, alone=alone, used=used)
            on_start(version)

        return await super().generate(request, alone=alone, on_start=started)


class Parts(RLParts):
    """Exports without files."""

    async def export(self) -> None:
        await self.trainer.export()  # type: ignore[call-arg]


class Sink:
    """A tracker."""

    def __init__(self, world: Any) -> None:
        self._world = world

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._world.log(f"step {step} reported")
        self._world.checker.reported(metrics)

    def log_samples(self, step: int, samples: Any) -> None:
        self._world.checker.step_done(step)

    def rewind(self, step: int) -> None:
        self._world.log(f"rewound to step {step}")

    def close(self, status: RunStatus) -> None:
        """Nothing is open."""


def config_of(world: Any) -> RLConfig:
    """The run's configuration, as a person would have written it."""
    s = world.scenario
    cfg = RLConfig(
        seed=s.seed,
        rollout=RolloutConfig(
            prompts_per_step=s.batch, group_size=s.group_size, max_tokens=s.max_tokens
        ),
        rl=StalenessConfig(
            max_staleness=s.max_staleness, on_overage=s.on_overage, oversample=s.oversample
        ),
        algorithm=AlgorithmConfig(
            advantage=GRPOConfig(),
            dynamic_sampling=DynamicSamplingConfig(enabled=s.dynamic, max_rounds=3),
            epochs=s.epochs,
            mini_batches=s.mini_batches,
            anchor=Anchor.proximal if s.proximal else Anchor.rollout,
        ),
        loss=ClipConfig(),
        trainer=TrainerConfig(steps=s.steps),
        critic=CriticRoleConfig(enabled=s.critic, warmup_only_steps=s.critic_alone),
        evaluation=EvaluationConfig(every=2),
        checkpoint=CheckpointConfig(every=s.every, keep=s.keep),
        failures=FAILURES,
        cluster=JudgedClusterConfig(offload_idle=s.turns),
    )
    check_config(cfg.rl, "rl")
    return cfg


def dataset(seed: int, rows: int, *, name: str) -> PromptDataset:
    prompts = [
        Prompt(uid=f"0:{row}", token_ids=(1, (seed + row) % 5, row % 5), text=f"{name} {row}")
        for row in range(rows)
    ]
    return PromptDataset(prompts, name=name, skipped=[])


async def drive(world: Any, stop: asyncio.Event) -> RunStatus:
    """Build everything, run the loop, close everything."""
    run = _run(world, stop)
    generation = Generation(world, run)
    await run.start(_roles(world), supervised=generation.supervisor.boot)
    world.parts = parts = _parts(world, run, generation)
    world.checker.born()
    try:
        job = OnlineJob(world, parts) if world.scenario.online else RLJob(parts)
        status = await guarded(run_loop(job, run), by=run.watch())
        world.checker.finished(generation.dispatcher)
        return status
    finally:
        await parts.sampling.supervisor.close()
        await run.aclose()


def _interruption(s: Any) -> Interruption | None:
    """Where one token can be written and another follow, responses may be interrupted."""
    if s.interrupt_after is None or s.interrupt_after + 2 > s.max_tokens:
        return None
    return Interruption(after=s.interrupt_after, phrase="!", token_ids=(toy.VOCABULARY - 1,))


class Generation:
    """What samples and judges, as in ``stages/sampling/generation.py``."""

    def __init__(self, world: Any, run: Run) -> None:
        s, cfg, clock = world.scenario, run.cfg, run.clock
        self._world, self._run, self._cfg, self._clock = world, run, cfg, clock
        self.signal = Signal()
        self.fleet = Fleet(s.names, missed_until_dead=cfg.failures.missed_pings)
        self.generators: dict[str, Any] = {}
        self.seats: dict[str, Seat] = {}
        self._budget = Budget(
            cfg.failures.failures_in_a_row, of="failures", field="failures.failures_in_a_row"
        )
        self.dispatcher = CheckedDispatcher(
            self.fleet, self.generators, signal=self.signal, permits=s.permits, clock=clock
        )
        self.supervisor = Supervisor(
            self.fleet,
            self.generators,
            seats=self.seats,
            spawn=lambda name: RemoteEngine(world, name),
            dispatcher=self.dispatcher,
            signal=self.signal,
            failures=cfg.failures,
            budget=self._budget,
            watchdog=run.watchdog,
            wanted=world.wanted,
            clock=clock,
        )
        self._judges = Judges(world)

    def collector(self, purpose: str) -> Collector:
        clock = self._clock
        return Collector(
            self.dispatcher,
            judges=[self._judges],
            combination=Combination(weights={"parity": 1.0}),
            purpose=purpose,
            failures=self._cfg.failures,
            budget=self._budget,
            interruption=_interruption(self._world.scenario) if purpose == "train" else None,
            finished=self._run.progress,
            clock=clock,
        )

    def bus(self, trainer: TrainedGroup) -> WeightBus:
        trained, turns = list(self._run.trained.values()), self._world.scenario.turns
        bus = WeightBus(
            trainer,
            fleet=self.fleet,
            receivers=self.generators,
            seats=self.seats,
            probe=[(1, 2, 3, 4), (4, 0, 1)],
            cfg=BusConfig(exact=True, timeout_s=PUSH_TIMEOUT_S, boot_timeout_s=120.0),
            changed=self.signal.wait,
            leave=partial(sleep_all, *trained) if turns else None,  # type: ignore[arg-type]
            clock=self._clock,
        )
        for group in trained if turns else ():
            group.comes = bus.rest  # type: ignore[attr-defined]
        return bus


class Seats:
    """A session in which there is room for everyone."""

    num_gpus = 4.0

    def place(self, actors: Sequence[ActorSpec]) -> list[Slot]:
        return []


def _run(world: Any, stop: asyncio.Event) -> Run:
    store = world.disk.store(world.scenario.keep)
    return Run(
        cfg=config_of(world),
        stage="rl",
        directory=RunDirectory(root=world.disk.root),
        store=store,
        config_hash="simulated",
        resume_from=store.latest(),
        tracker=Trackers([Sink(world)]),
        session=Seats(),  # type: ignore[arg-type]
        stop=stop,
        clock=asyncio.get_running_loop().time,
    )


def _roles(world: Any) -> list[Role]:
    names = ["trainer", "critic"] if world.scenario.critic else ["trainer"]
    return [
        Role(
            name=name,
            processes=name,
            actors=(),
            memory=lambda work: [],
            spawn=lambda session, name=name: TrainedGroup(world, name),  # type: ignore[misc]
            trained=True,
        )
        for name in names
    ]


def _parts(world: Any, run: Run, generation: "Generation") -> Parts:
    s, cfg, clock = world.scenario, run.cfg, run.clock
    train_set = dataset(s.seed, s.rows, name="train")
    cursor = PromptCursor(s.rows, seed=s.seed, shuffle=True, fingerprint=train_set.fingerprint)
    ledger, staleness, training = (
        CheckedLedger(),
        Staleness(cfg.rl, batch=s.batch),
        generation.collector("train"),
    )
    producer = CheckedProducer(
        pair_source(world, cfg, train_set, cursor)
        if s.online
        else training_source(cfg, train_set, cursor),
        collector=training,
        ledger=ledger,
        staleness=staleness,
        clock=clock,
    )
    for checked in (ledger, producer, generation.dispatcher):
        checked.checker = world.checker
    trainer: Any = run.trained["trainer"]
    critic: Any = run.trained.get("critic")
    sampling = SamplingParts(
        run=run,
        train_set=train_set,
        heldout_set=dataset(s.seed, 2, name="heldout") if s.heldout else None,
        cursor=cursor,
        ledger=ledger,
        staleness=staleness,
        fleet=generation.fleet,
        supervisor=generation.supervisor,
        producer=producer,
        collector=training,
        examiner=Examiner(
            collector=generation.collector("heldout"),
            sampling=replace(cfg.rollout.sampling, temperature=cfg.evaluation.temperature),
            samples=cfg.evaluation.samples,
            seed=cfg.seed,
        ),
        rewards=None,
        learning=Learning(cfg.failures),
        bus=generation.bus(trainer),
        statistics=partial(raw_statistics, cfg=cfg),
    )
    return Parts(
        cfg=cfg,
        sampling=sampling,
        trainer=trainer,
        critic=critic,
        reference=None,
        objective=PolicyObjective(loss=cfg.loss, kl=cfg.algorithm.kl, proximal=s.proximal),
        kl_controller=KLController(0.0, cfg.algorithm.kl.adaptive),
    )
