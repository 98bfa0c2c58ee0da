"""The learning rate as a pure function of the step.

Owns no state on purpose: a resumed run, a skipped step and a repeated call cannot shift it.
"""

import math

from rlpost.training.settings import LRSchedule, TrainerConfig


def lr_at(step: int, cfg: TrainerConfig) -> float:
    """Return the learning rate of optimizer step ``step`` (1-based).

    Warm-up rises linearly and reaches ``cfg.lr`` at step ``warmup_steps``. Cosine and linear
    then fall so that the step after ``cfg.steps`` would be the first with rate 0; beyond it
    the rate stays 0.
    """
    assert step >= 1, step
    if step < cfg.warmup_steps:
        return cfg.lr * step / cfg.warmup_steps
    start = max(cfg.warmup_steps, 1)
    progress = min(1.0, (step - start) / (cfg.steps + 1 - start))
    match cfg.lr_schedule:
        case LRSchedule.constant:
            return cfg.lr
        case LRSchedule.linear:
            return cfg.lr * (1 - progress)
        case LRSchedule.cosine:
            return cfg.lr * 0.5 * (1 + math.cos(math.pi * progress))
