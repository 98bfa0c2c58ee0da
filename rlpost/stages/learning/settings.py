"""Options that stages which learn from a data set share.

Owns their declaration and the number of steps that follows from them. Refuses to own their place
among the others (config.py). Imports nothing that starts a process, so that help is instant.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from rlpost.bounds import number, option
from rlpost.errors import UserError
from rlpost.stages.sampling.suite_settings import SuitesConfig
from rlpost.training.settings import LRSchedule, TrainerConfig


@dataclass(kw_only=True)
class SupervisedTrainerConfig(TrainerConfig):
    """The trainer: an optimizer under DeepSpeed ZeRO, for as many steps or epochs as are asked for.

    ``shares`` is no option: whether completions of a stage share prompts at all.
    """

    shares: ClassVar[bool] = False

    steps: int | None = number(  # type: ignore[assignment]
        None, at_least=1, at_most=10**8, help="optimizer steps; null: trainer.epochs says"
    )
    epochs: float | None = number(
        None,
        above=0,
        at_most=10**6,
        help="passes over the training data, in place of trainer.steps; null: 1 without steps",
    )
    lr: float = number(
        2e-5, above=0, at_most=1, hint="2e-5 is usual for full weights", help="learning rate"
    )
    lr_schedule: LRSchedule = option(
        LRSchedule.cosine,
        help="shape of the learning rate after warm-up; cosine and linear end at 0",
    )
    warmup_steps: int | None = number(  # type: ignore[assignment]
        None,
        at_least=0,
        at_most=10**8,
        help="steps over which the learning rate rises from 0; null: trainer.warmup_fraction says",
    )
    warmup_fraction: float = number(
        0.03, at_least=0, below=1, help="part of all steps that warm up, rounded up"
    )
    packing: bool = option(
        True, help="several examples share a micro-batch; false: each is one, ranks by length"
    )

    def check(self, path: str) -> None:
        """Raises UserError: two options say how long the run is, or one has no effect."""
        if self.steps is not None and self.epochs is not None:
            raise UserError(
                f"{path}.steps={self.steps} and {path}.epochs={self.epochs:g} both say how long "
                "the run is; give one of them"
            )
        if not self.share_prompts and not self.shares:
            raise UserError(
                f"{path}.share_prompts=false has no effect in this stage, which packs its examples "
                "in one way; leave it out"
            )
        if self.steps is not None and self.warmup_steps is not None:
            super().check(path)

    def of_steps(self, steps: int) -> "SupervisedTrainerConfig":
        """Return the options with the number of steps, and of those that warm up.

        Args:
            steps: what ``epochs`` come to; ``steps``, if given, counts instead.

        Raises:
            UserError: the warm-up leaves no step for what comes after it.
        """
        steps, warmup = self.steps or max(1, steps), self.warmup_steps
        if warmup is None:
            warmup = min(steps - 1, math.ceil(self.warmup_fraction * steps))
        found = replace(self, steps=steps, epochs=None, warmup_steps=warmup)
        found.check("trainer")
        return found


@dataclass(kw_only=True)
class HeldoutConfig:
    """Loss of held-out examples: before, every so many steps, and after."""

    every: int = number(
        50,
        at_least=0,
        at_most=10**8,
        hint="0 evaluates only before and after",
        help="steps between evaluations; 0: only before and after",
    )


@dataclass(kw_only=True)
class ScoredHeldoutConfig(SuitesConfig, HeldoutConfig):
    """Held-out examples, and suites that generators answer: before, every so often, and after."""
