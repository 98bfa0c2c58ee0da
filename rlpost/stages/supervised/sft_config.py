"""The options of ``rlpost sft``, and the rules between them.

Owns what no other stage has. Refuses to own what every stage has that learns from a data set
(stages/learning/config.py).
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from rlpost.algorithms.reduce import ExampleAggregation
from rlpost.algorithms.supervised import StartKLConfig
from rlpost.bounds import number, option
from rlpost.data.conversation.marks import TrainOn
from rlpost.data.supervised import SupervisedDataConfig
from rlpost.stages.learning.config import (
    LearnedDataConfig,
    ScoredLearningConfig,
    check_scored_learning,
)
from rlpost.training.adapters.check import check_adapter
from rlpost.training.adapters.config import is_own_reference, require_comparable
from rlpost.training.settings import ReferenceRanksConfig, require_reference


@dataclass(kw_only=True)
class SFTDataConfig(SupervisedDataConfig):
    """Where conversations and completions come from, and what is trained of them."""

    train_on: TrainOn = option(
        TrainOn.assistant, help="every answer of the assistant, the last one, or all tokens"
    )


@dataclass(kw_only=True)
class SFTLossConfig:
    """What is minimised."""

    loss: Any = option(MISSING, help="loss of a token")
    reduction: ExampleAggregation = option(
        ExampleAggregation.token_mean, help="how the losses of a step's tokens are averaged"
    )
    kl: StartKLConfig = field(default_factory=StartKLConfig)
    reference: ReferenceRanksConfig = field(default_factory=ReferenceRanksConfig)
    neftune_alpha: float = number(
        0.0,
        at_least=0,
        at_most=1000,
        hint="the paper uses 5 to 15",
        help="noise on the embeddings while it learns (NEFTune); 0: none",
    )


@dataclass(kw_only=True)
class SFTConfig(ScoredLearningConfig, SFTLossConfig, LearnedDataConfig):
    """Everything ``rlpost sft`` can be told."""

    data: SFTDataConfig = field(default_factory=SFTDataConfig)


def check_sft(cfg: SFTConfig) -> None:
    """Refuse settings of ``rlpost sft`` that cannot work.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    own = is_own_reference(cfg.adapter, start=cfg.model.adapter)
    models = 2 if cfg.kl.coefficient > 0 and not own else 1
    if cfg.kl.coefficient > 0:
        require_comparable(cfg.adapter, why="kl.coefficient compares log-probs with the start's")
    require_reference(cfg.reference, exists=models > 1, way_out="set kl.coefficient")
    check_scored_learning(cfg, models=models, way_out="set kl.coefficient or evaluation.suites")
    check_adapter(cfg.adapter, cfg.trainer)
