"""The options of ``rlpost reward``, and the rules between them.

Owns what no other stage has. Refuses to own what every stage has that learns from a data set
(stages/learning/config.py) and the options of a loss (algorithms/reward/).
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from rlpost.algorithms.reward import StepConfig
from rlpost.bounds import option
from rlpost.data.supervised import SupervisedDataConfig
from rlpost.errors import UserError
from rlpost.stages.learning.config import LearnedDataConfig, LearningConfig, check_learning
from rlpost.training.adapters.check import check_adapter
from rlpost.training.adapters.config import refuse_supervised_only


@dataclass(kw_only=True)
class RewardDataConfig(SupervisedDataConfig):
    """Where pairs or judged steps come from."""

    step_separator: str | None = option(
        None, help="text between two steps, only with loss=step; null: a line feed"
    )


@dataclass(kw_only=True)
class RewardLossConfig:
    """What is minimised."""

    loss: Any = option(MISSING, help="bradley_terry learns from pairs, step from judged steps")


@dataclass(kw_only=True)
class RewardConfig(LearningConfig, RewardLossConfig, LearnedDataConfig):
    """Everything ``rlpost reward`` can be told."""

    data: RewardDataConfig = field(default_factory=RewardDataConfig)

    @property
    def judges_steps(self) -> bool:
        """Whether a process reward model is trained, of steps."""
        return isinstance(self.loss, StepConfig)


def check_reward(cfg: RewardConfig) -> None:
    """Refuse settings of ``rlpost reward`` that cannot work.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    check_learning(cfg)
    check_adapter(cfg.adapter, cfg.trainer)
    refuse_supervised_only(cfg.adapter, why="engines serve what judges")
    separator = cfg.data.step_separator
    if separator == "":
        raise UserError(
            "data.step_separator must not be empty, because steps could not be told apart; use "
            "null for a line feed"
        )
    if separator is not None and not cfg.judges_steps:
        raise UserError(
            f"data.step_separator={separator!r} has no effect with loss={cfg.loss.kind}, which "
            "scores whole responses; leave it out, or use loss=step"
        )
