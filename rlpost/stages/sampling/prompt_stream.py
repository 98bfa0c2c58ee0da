"""Where a run's training prompts come from, as the producer sees it."""

from collections.abc import Callable
from typing import Any

from rlpost.data.cursor import PromptCursor, parse_uid
from rlpost.data.dataset import PromptDataset
from rlpost.rollout.producer import PromptStream
from rlpost.types import Group, Prompt


def prompt_stream(
    cfg: Any,
    train_set: PromptDataset,
    cursor: PromptCursor,
    *,
    useful: Callable[[Group], bool],
    max_draws: int | None,
    answers: Callable[[Prompt], bool] = lambda prompt: True,
) -> PromptStream:
    """Return prompts in the cursor's order.

    Args:
        cfg: options of a stage that samples: its rollout and its seed.
        train_set: the prompts.
        cursor: their order.
        useful: says of every finished group whether to train on it.
        max_draws: most prompts of a step, where some are not useful; None: as many as it takes.
        answers: says of a prompt whether it is answered at all.
    """
    return PromptStream(
        draw=lambda: train_set.prompt(*cursor.take(1)[0]),
        find=lambda uid: train_set.prompt(*parse_uid(uid)),
        useful=useful,
        max_draws=max_draws,
        num_samples=cfg.rollout.group_size,
        sampling=cfg.rollout.sampling,
        seed=cfg.seed,
        answers=answers,
    )
