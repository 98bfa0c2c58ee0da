"""The options of ``rlpost preference``, and the rules between them.

Owns what no other stage has. Refuses to own what every stage has that learns from a data set
(stages/learning/config.py) and the options of each loss (algorithms/preference/).
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from omegaconf import MISSING

from rlpost.algorithms.preference import JudgedInputs
from rlpost.bounds import number, option
from rlpost.control.failures import FailureConfig
from rlpost.errors import UserError
from rlpost.stages.learning.config import (
    LearnedDataConfig,
    ScoredLearningConfig,
    check_learning,
    check_scored_learning,
)
from rlpost.stages.learning.settings import SupervisedTrainerConfig
from rlpost.stages.preference.online.settings import OnlineOptions, check_online
from rlpost.stages.sampling.online_settings import OnlineDataConfig, check_offline
from rlpost.training.adapters.check import check_adapter
from rlpost.training.adapters.config import is_own_reference, require_comparable
from rlpost.training.settings import ReferenceRanksConfig, require_reference


class ReferenceMode(Enum):
    """When the reference's log-probs are computed.

    ``precomputed``: before the first step, of every row that the run will draw; where the reference
    is the model that training starts from there is no second model. ``live``: in each step, by a
    second model.
    """

    precomputed = "precomputed"
    live = "live"


@dataclass(kw_only=True)
class ReferenceConfig(ReferenceRanksConfig):
    """The model that log-probs are compared with, for losses that need one."""

    mode: ReferenceMode = option(
        ReferenceMode.precomputed,
        help="log-probs once before the first step; or in each step, as always online",
    )
    path: str | None = option(
        None, help="embedded model, local directory or hub id; null: the model training starts from"
    )


@dataclass(kw_only=True)
class PairTrainerConfig(SupervisedTrainerConfig):
    """The trainer: an optimizer under DeepSpeed ZeRO, for as many steps or epochs as asked for."""

    shares: ClassVar[bool] = True

    lr: float = number(
        1e-6, above=0, at_most=1, hint="1e-6 is usual for full weights", help="learning rate"
    )


@dataclass(kw_only=True)
class PreferenceOptions:
    """What is minimised, and what it is compared with."""

    loss: Any = option(MISSING, help="loss of a pair, or of a judged completion")
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)


@dataclass(kw_only=True)
class PreferenceConfig(ScoredLearningConfig, OnlineOptions, PreferenceOptions, LearnedDataConfig):
    """Everything ``rlpost preference`` can be told."""

    data: OnlineDataConfig = field(default_factory=OnlineDataConfig)
    failures: FailureConfig = field(default_factory=FailureConfig)
    examples_per_step: int = number(
        32,
        at_least=1,
        at_most=10**6,
        help="pairs, or judged rows, of one optimizer step, over all ranks",
    )
    trainer: PairTrainerConfig = field(default_factory=PairTrainerConfig)

    @property
    def is_judged(self) -> bool:
        """Whether the loss takes single completions that are good or bad, not pairs."""
        return self.loss.inputs is JudgedInputs

    @property
    def has_second_model(self) -> bool:
        """Whether a frozen model runs beside the policy."""
        reference = self.reference
        is_live = reference.mode is ReferenceMode.live or self.data.online
        copies = is_live and not is_own_reference(self.adapter, start=self.model.adapter)
        return self.loss.needs_reference and (copies or reference.path is not None)


def check_preference(cfg: PreferenceConfig) -> None:
    """Refuse settings of ``rlpost preference`` that cannot work.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    require_comparable(cfg.adapter, why="log-probs of two responses are compared")
    needs, models = cfg.loss.needs_reference, 2 if cfg.has_second_model else 1
    if cfg.data.online:
        check_learning(cfg, models=models + 1, generates=True, samples=True)
        check_online(cfg)
    else:
        check_scored_learning(
            cfg,
            models=models,
            way_out="set reference.mode=live" if needs else "set evaluation.suites",
        )
        check_offline(cfg, options=OnlineOptions)
    check_adapter(cfg.adapter, cfg.trainer)
    for name, default in vars(ReferenceConfig()).items():
        if not needs and (value := getattr(cfg.reference, name)) != default:
            raise UserError(
                f"reference.{name}={getattr(value, 'value', value)} has no effect: "
                f"loss={cfg.loss.kind} compares with no reference; leave it out"
            )
    require_reference(
        cfg.reference,
        exists=cfg.has_second_model,
        way_out="set reference.mode=live or reference.path=MODEL",
    )
    if cfg.loss.needs_kl and cfg.examples_per_step < 2:
        raise UserError(
            f"examples_per_step must be at least 2 with loss={cfg.loss.kind}, whose reference "
            "point is a mean over the completions of a step, got "
            f"{cfg.examples_per_step}"
        )
