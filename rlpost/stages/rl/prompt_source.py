"""Which groups a run of RL trains on, as the producer sees it."""

from rlpost.algorithms.shaping import keep_groups
from rlpost.config.schema import RLConfig
from rlpost.data.cursor import PromptCursor
from rlpost.data.dataset import PromptDataset
from rlpost.rollout.producer import PromptStream
from rlpost.stages.rl.batch import raw_statistics
from rlpost.stages.sampling.prompt_stream import prompt_stream
from rlpost.types import Group


def training_source(cfg: RLConfig, train_set: PromptDataset, cursor: PromptCursor) -> PromptStream:
    """Prompts in the cursor's order; with dynamic sampling, only groups with a gradient."""
    sampling, rollout = cfg.algorithm.dynamic_sampling, cfg.rollout

    def useful(group: Group) -> bool:
        return bool(keep_groups(raw_statistics([group], cfg))[0])

    return prompt_stream(
        cfg,
        train_set,
        cursor,
        useful=useful if sampling.enabled else lambda group: True,
        max_draws=sampling.max_rounds * rollout.prompts_per_step if sampling.enabled else None,
    )
