"""A policy that learns from pairs of its own samples, around simulated processes."""

from typing import Any

from rlpost.algorithms.preference.reference_free import SimPOConfig
from rlpost.data.cursor import PromptCursor
from rlpost.data.dataset import PromptDataset
from rlpost.rollout.producer import PromptStream
from rlpost.stages.preference.batch import ResponsePacker
from rlpost.stages.preference.config import PreferenceConfig
from rlpost.stages.preference.online.job import PairBatches
from rlpost.stages.preference.online.pairs import pair_of
from rlpost.stages.sampling.online_job import OnlineJob as Job
from rlpost.stages.sampling.online_settings import OnlineDataConfig
from rlpost.stages.sampling.prompt_stream import prompt_stream

ROUNDS = 8


class OnlineJob(Job):
    """Exports without files; ``parts`` are those of the simulated RL run."""

    def __init__(self, world: Any, parts: Any) -> None:
        data = OnlineDataConfig(train="arithmetic", online=True)
        cfg = PreferenceConfig(seed=world.scenario.seed, loss=SimPOConfig(), data=data)
        packer = ResponsePacker(num_ranks=1, max_tokens=64, judged=False)
        run = parts.sampling.run
        super().__init__(
            cfg=cfg,
            data=data.prompts(),
            sampling=parts.sampling,
            policy=parts.trainer,
            objective=None,  # type: ignore[arg-type]
            batches=PairBatches(cfg=cfg, run=run, reference=None, packer=packer),
        )

    async def export(self) -> None:
        await self.policy.export()  # type: ignore[call-arg]


def pair_source(
    world: Any, cfg: Any, train_set: PromptDataset, cursor: PromptCursor
) -> PromptStream:
    seed = world.scenario.seed
    return prompt_stream(
        cfg,
        train_set,
        cursor,
        useful=lambda group: pair_of(group, seed=seed) is not None,
        max_draws=ROUNDS * world.scenario.batch,
    )
