"""The parts of a training run, for a loop of your own; docs/examples/best_of_n.py uses all.

Owns their assembly on this machine or a joined cluster. Refuses to own the loop, data,
checkpoints of a whole run and resuming: that is what ``rlpost rl`` does. Invariants: generators
serve only weights that a push has proved, beginning with those of the policy at hand; everything
that was started ends with the context, also when the loop fails.
"""

import asyncio
import math
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlpost.algorithms.reduce import ReductionConfig, loss_weights
from rlpost.algorithms.supervised import LikelihoodObjective
from rlpost.cluster.generators import GeneratorFactory
from rlpost.cluster.ranks import rank_name
from rlpost.cluster.session import ClusterConfig, Device, Session, resolve_device
from rlpost.cluster.supervision import Supervisor, generator_name
from rlpost.cluster.trained import TrainedGroup, spawn_trained
from rlpost.control.failures import Budget, FailureConfig
from rlpost.control.fleet import Fleet
from rlpost.control.placement import ActorSpec
from rlpost.control.watchdog import Watchdog
from rlpost.data.encoder import PromptEncoder
from rlpost.data.rows import Row
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.locate import locate_model
from rlpost.rollout.collector import Collector
from rlpost.rollout.dispatch import Dispatcher
from rlpost.rollout.protocol import RestartableGenerator
from rlpost.rollout.signal import Signal
from rlpost.rollout.vllm_generator import GeneratorConfig, GeneratorDtype
from rlpost.training.model.loading import TrainedModel
from rlpost.training.packing.pack import Packed, pack
from rlpost.training.packing.units import Unit
from rlpost.training.precision import resolve_dtype
from rlpost.training.settings import TrainerConfig
from rlpost.types import Group, Prompt, SamplingConfig, Trajectory, Verdict
from rlpost.verifiers.combine import Combination
from rlpost.weights.bus import WeightBus
from rlpost.weights.protocol import BusConfig
from rlpost.weights.publisher import WeightsConfig, sender_factory

__all__ = ["LikelihoodObjective", "Parts", "SamplingConfig", "TrainerConfig", "open_parts"]

Reward = Callable[[Prompt, str], float | None]  # None: this response cannot be judged
OWN = "own"  # what the one judge of such a loop is called


class _Own:
    """Judges by a function of the loop's owner, in this process."""

    def __init__(self, reward: Reward) -> None:
        self._reward = reward

    async def judge(self, group: Group) -> list[tuple[Verdict, ...]]:
        rewards = [self._reward(group.prompt, t.text) for t in group.trajectories]
        return [
            (Verdict(verifier=OWN, reward=r, error=None if r is not None else "abstained"),)
            for r in rewards
        ]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A policy that trains, generators that sample from it, and the bus between them."""

    policy: TrainedGroup
    bus: WeightBus
    trainer: TrainerConfig
    _dispatcher: Dispatcher
    _encoder: PromptEncoder
    _failures: FailureConfig
    _guard: "asyncio.Task[None]"  # restarts generators

    def prompts(self, questions: Sequence[str]) -> list[Prompt]:
        """Encode user messages with the model's chat template, or bare where it has none."""
        rows = [Row(columns={"prompt": question}, address="own") for question in questions]
        return [self._encoder.encode(row, uid=f"0:{i}") for i, row in enumerate(rows)]

    async def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        num_samples: int,
        sampling: SamplingConfig,
        reward: Reward,
        seed: int,
    ) -> tuple[Group, ...]:
        """Sample responses of the pushed weights and judge them; groups in prompt order.

        A prompt that no generator could answer is left out.

        Raises:
            RunFailed: too many failures in a row.
        """
        collector = Collector(
            self._dispatcher,
            judges=[_Own(reward)],
            combination=Combination(weights={OWN: 1.0}),
            purpose=OWN,
            failures=self._failures,
            budget=Budget(self._failures.failures_in_a_row, of="failures", field="failures"),
        )
        collecting = asyncio.ensure_future(
            collector.collect(prompts, num_samples=num_samples, sampling=sampling, seed=seed)
        )
        await asyncio.wait({collecting, self._guard}, return_when=asyncio.FIRST_COMPLETED)
        if self._guard.done():  # nobody would restart the generators that this waits for
            collecting.cancel()
            self._guard.result()
        return (await collecting).groups

    def pack(self, trajectories: Sequence[Trajectory]) -> Packed:
        """Pack responses for an update; ``weight_R`` is the mean over all their tokens."""
        units = [
            Unit.sharing(t.prompt_ids, {n: t.response_ids}) for n, t in enumerate(trajectories)
        ]
        weights = loss_weights([u.items[0].scored for u in units], config=ReductionConfig())
        packed = pack(
            units,
            num_ranks=self.trainer.num_ranks,
            max_tokens=self.trainer.max_tokens_per_micro_batch,
        )
        return packed.attach(weight_R=dict(enumerate(weights)))


@asynccontextmanager
async def open_parts(
    model: str,
    *,
    trainer: TrainerConfig,
    generator: GeneratorConfig | None = None,
    cluster: ClusterConfig | None = None,
    seed: int = 0,
) -> AsyncIterator[Parts]:
    """Start trainer ranks and generators, and push the first weights.

    Args:
        model: a directory, a hub id or a name that ``model.path`` takes.
        trainer: the policy's options; ``steps`` is the length of its schedule.
        generator: the engines'.
        cluster: where they run; this machine by default.
        seed: of the trainer.

    Raises:
        UserError: the model or an option is not fit for it.
        InfrastructureError: an actor did not come up.
    """
    cluster, failures = cluster or ClusterConfig(), FailureConfig()
    directory = ModelDirectory.read(locate_model(model))
    path = str(directory.path)
    engines = _resolved(generator or GeneratorConfig(), trainer)
    names = [generator_name(index) for index in range(engines.num)]
    generators: dict[str, RestartableGenerator] = {}
    workers: dict[str, int] = {}
    fleet, signal = Fleet(names), Signal()
    dispatcher = Dispatcher(fleet, generators, signal=signal)
    with Session(cluster) as session, tempfile.TemporaryDirectory() as scratch:
        session.place(_actors(cluster, trainer, names))
        policy = spawn_trained(
            session,
            trainer,
            group="trainer",
            model=TrainedModel.policy(path, trainer),
            seed=seed,
            call_timeout_s=cluster.call_timeout_s,
            make_sender=sender_factory(
                WeightsConfig(),
                one_host=cluster.address is None,
                run_id=Path(scratch).name,
                root=Path(scratch),
            ),
        )
        supervisor = Supervisor(
            fleet,
            generators,
            workers=workers,
            spawn=GeneratorFactory(
                session,
                engines,
                model_path=path,
                call_timeout_s=cluster.call_timeout_s,
                ping_timeout_s=failures.ping_timeout_s,
            ),
            dispatcher=dispatcher,
            signal=signal,
            failures=failures,
            budget=Budget(failures.failures_in_a_row, of="failures", field="failures"),
            # Whoever owns the loop decides how long it may take.
            watchdog=Watchdog(stuck_after_s=math.inf, now_s=time.monotonic()),
        )
        await asyncio.gather(supervisor.boot(), policy.setup())
        bus = WeightBus(
            policy.source,
            fleet=fleet,
            receivers=generators,
            workers=workers,
            probe=[list(range(1, 9))],
            cfg=BusConfig(exact=engines.dtype is GeneratorDtype.float32),
            changed=signal.wait,
        )
        guard = asyncio.create_task(supervisor.run(bus))
        try:
            await bus.publish()
            yield Parts(
                policy=policy,
                bus=bus,
                trainer=trainer,
                _dispatcher=dispatcher,
                _encoder=PromptEncoder(directory.tokenizer(), prompt_column="prompt"),
                _failures=failures,
                _guard=guard,
            )
        finally:
            guard.cancel()
            await supervisor.close()
            await policy.close()


def _resolved(generator: GeneratorConfig, trainer: TrainerConfig) -> GeneratorConfig:
    """Fill in what depends on the machine: threads, and the trainer's dtype."""
    dtype = generator.dtype
    if dtype is GeneratorDtype.auto:
        dtype = GeneratorDtype(str(resolve_dtype(trainer.dtype)).removeprefix("torch."))
    threads = generator.threads or max(1, len(os.sched_getaffinity(0)) // generator.num)
    return replace(generator, dtype=dtype, threads=threads)


def _actors(cluster: ClusterConfig, trainer: TrainerConfig, names: list[str]) -> list[ActorSpec]:
    one: Any = 1 if resolve_device(cluster.device) is Device.cuda else 0
    ranks = [
        ActorSpec(name=rank_name("trainer", rank), role="trainer", num_gpus=one)
        for rank in range(trainer.num_ranks)
    ]
    return ranks + [ActorSpec(name=name, role="generator", num_gpus=one) for name in names]
