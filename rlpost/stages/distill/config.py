"""The options of ``rlpost distill``, and the rules between them.

Owns what no other stage has. Refuses to own what every stage has that learns from a data set
(stages/learning/config.py).
"""

from dataclasses import dataclass, field

from rlpost.algorithms.distill import DivergenceConfig
from rlpost.algorithms.reduce import ExampleAggregation
from rlpost.bounds import option
from rlpost.errors import UserError
from rlpost.stages.learning.config import (
    LearnedDataConfig,
    ScoredLearningConfig,
    check_scored_learning,
)
from rlpost.stages.supervised.sft_config import SFTDataConfig


@dataclass(kw_only=True)
class TeacherConfig:
    """The model that is learned from; frozen, whole in each rank of the student."""

    path: str | None = option(
        None, help="embedded model, local directory or hub id; must have the student's tokenizer"
    )


@dataclass(kw_only=True)
class DistillOptions:
    """Who teaches, and how far from the teacher the student is."""

    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    distill: DivergenceConfig = field(default_factory=DivergenceConfig)
    reduction: ExampleAggregation = option(
        ExampleAggregation.token_mean, help="how the divergences of a step's tokens are averaged"
    )


@dataclass(kw_only=True)
class DistillConfig(ScoredLearningConfig, DistillOptions, LearnedDataConfig):
    """Everything ``rlpost distill`` can be told."""

    data: SFTDataConfig = field(default_factory=SFTDataConfig)


def check_distill(cfg: DistillConfig) -> None:
    """Refuse settings of ``rlpost distill`` that cannot work.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    check_scored_learning(cfg)
    if not cfg.teacher.path:
        raise UserError(
            "teacher.path must name the model to learn from, which has the student's tokenizer, "
            "such as the export of another run: teacher.path=runs/NAME/export"
        )
