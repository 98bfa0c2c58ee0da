"""The parts of a training run, for a loop of your own; docs/examples/best_of_n.py uses all.

Owns their assembly on this machine or a joined cluster. Refuses to own the loop, data,
checkpoints of a whole run and resuming: that is what ``rlpost rl`` does. Invariants: generators
serve only weights that a push has proved, beginning with those of the policy at hand; everything
that was started ends with the context, also when the loop fails.
"""

import asyncio
import math
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rlpost.algorithms.reduce import ReductionConfig, loss_weights
from rlpost.algorithms.supervised import LikelihoodObjective
from rlpost.cluster.session import ClusterConfig, Device, Session, resolve_device
from rlpost.cluster.trained import TrainedGroup
from rlpost.control.failures import FailureConfig
from rlpost.control.watchdog import Watchdog
from rlpost.data.encoder import PromptEncoder
from rlpost.data.rows import Row
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.locate import context_length, locate_model
from rlpost.models.shape import model_shape
from rlpost.rollout.generator_config import GeneratorConfig
from rlpost.rollout.tensor_parallel import require_divisible
from rlpost.stages.rl.units import unit_of
from rlpost.stages.roles import close_all, start_roles, trained_role
from rlpost.stages.sampling.generation import Generation, generators_role, resolved_generator
from rlpost.stages.sampling.generator_settings import refuse_sleep
from rlpost.training.model.loading import TrainedModel
from rlpost.training.packing.pack import Packed, pack
from rlpost.training.settings import TrainerConfig
from rlpost.types import Episode, Group, Prompt, SamplingConfig, Verdict
from rlpost.verifiers.combine import Combination
from rlpost.weights.bus import WeightBus
from rlpost.weights.publisher import WeightsConfig, sender_factory

__all__ = ["LikelihoodObjective", "Parts", "SamplingConfig", "TrainerConfig", "open_parts"]

Reward = Callable[[Prompt, str], float | None]  # None: this response cannot be judged
OWN = "own"  # what the one judge of such a loop is called


class _Own:
    """Judges by a function of the loop's owner, in this process."""

    def __init__(self, reward: Reward) -> None:
        self._reward = reward

    async def judge(self, group: Group) -> list[tuple[Verdict, ...]]:
        rewards = [self._reward(group.prompt, e.text) for e in group.episodes]
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
    _generation: Generation
    _encoder: PromptEncoder
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
        collector = self._generation.collector(
            [_Own(reward)], combination=Combination(weights={OWN: 1.0}), purpose=OWN
        )
        collecting = asyncio.ensure_future(
            collector.collect(prompts, num_samples=num_samples, sampling=sampling, seed=seed)
        )
        await asyncio.wait({collecting, self._guard}, return_when=asyncio.FIRST_COMPLETED)
        if self._guard.done():  # nobody would restart the generators that this waits for
            collecting.cancel()
            self._guard.result()
        return (await collecting).groups

    def pack(self, episodes: Sequence[Episode]) -> Packed:
        """Pack episodes for an update; ``weight_R`` is the mean over all their sampled tokens."""
        trajectories = [t for episode in episodes for t in episode.trajectories]
        lengths = [t.num_sampled for t in trajectories]
        weights = loss_weights(lengths, config=ReductionConfig())
        packed = pack(
            [unit_of(trajectory, number=n) for n, trajectory in enumerate(trajectories)],
            num_ranks=self.trainer.data_ranks,
            max_tokens=self.trainer.max_tokens_per_micro_batch,
        )
        return packed.attach(weight_R=dict(enumerate(map(np.full, lengths, weights))))


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
    path, device = str(directory.path), resolve_device(cluster)
    refuse_sleep(generator or GeneratorConfig())
    engines = resolved_generator(generator or GeneratorConfig(), trainer, device=device)
    engines = replace(engines, max_model_len=engines.max_model_len or context_length(path))
    require_divisible(engines.tensor_parallel_size, model_shape(path))
    weights = WeightsConfig()
    with Session(cluster) as session, tempfile.TemporaryDirectory() as scratch:
        generation = Generation(
            session,
            engines,
            model_path=path,
            pushed=True,
            cluster=cluster,
            failures=failures,
            # Whoever owns the loop decides how long it may take.
            watchdog=Watchdog(stuck_after_s=math.inf, now_s=time.monotonic()),
        )
        ranks = trained_role(
            "trainer",
            trainer,
            model=TrainedModel.policy(path, trainer),
            seed=seed,
            cluster=cluster,
            device=device,
            make_sender=sender_factory(
                weights,
                run_id=Path(scratch).name,
                root=Path(scratch),
                on_gpu=device is Device.cuda,
            ),
        )
        policy, _ = await start_roles(
            [ranks, generators_role(engines, model_path=path, device=device)],
            session,
            offload_idle=cluster.offload_idle,
            supervised=generation.supervisor.boot,
        )
        bus = generation.bus(
            policy.source, trainer=trainer, weights=weights, probe=[list(range(1, 9))]
        )
        guard = asyncio.create_task(generation.supervisor.run(bus))
        try:
            await bus.publish()
            yield Parts(
                policy=policy,
                bus=bus,
                trainer=trainer,
                _generation=generation,
                _encoder=PromptEncoder(directory.tokenizer(), prompt_column="prompt"),
                _guard=guard,
            )
        finally:
            guard.cancel()
            await close_all([generation.supervisor, policy])
