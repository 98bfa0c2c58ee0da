"""The options of ``rlpost distill``, and the rules between them.

Owns what no other stage has. Refuses to own what every stage has that learns from a data set
(stages/learning/config.py).
"""

from dataclasses import dataclass, field

from rlpost.algorithms.distill import DivergenceConfig
from rlpost.algorithms.reduce import ExampleAggregation
from rlpost.bounds import number, option
from rlpost.config.schema import ResponsesConfig
from rlpost.control.failures import FailureConfig
from rlpost.data.conversation.marks import TrainOn
from rlpost.errors import UserError
from rlpost.stages.distill.teacher_settings import TeacherConfig, check_teacher
from rlpost.stages.learning.config import (
    LearnedDataConfig,
    ScoredLearningConfig,
    check_learning,
    check_scored_learning,
)
from rlpost.stages.sampling.online_settings import (
    OnlineDataConfig,
    SampledOptions,
    check_offline,
    check_online_data,
    check_samples,
    refuse_masked_overage,
)
from rlpost.training.adapters.check import check_adapter
from rlpost.training.adapters.config import refuse_supervised_only


@dataclass(kw_only=True)
class DistillOptions:
    """Who teaches, and how far from the teacher the student is."""

    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    distill: DivergenceConfig = field(default_factory=DivergenceConfig)
    reduction: ExampleAggregation = option(
        ExampleAggregation.token_mean, help="how the divergences of a step's tokens are averaged"
    )


@dataclass(kw_only=True)
class DistillDataConfig(OnlineDataConfig):
    """Where conversations and completions come from, or prompts that the student answers."""

    train_on: TrainOn = option(
        TrainOn.assistant,
        help="what is compared of a row: every answer, the last one, or all tokens",
    )
    on_policy_fraction: float = number(
        1.0,
        above=0,
        at_most=1,
        hint="without online every response is given",
        help="share of prompts that the student answers; of the others the row's column "
        "completion is compared; online",
    )


@dataclass(kw_only=True)
class DistillConfig(ScoredLearningConfig, SampledOptions, DistillOptions, LearnedDataConfig):
    """Everything ``rlpost distill`` can be told."""

    data: DistillDataConfig = field(default_factory=DistillDataConfig)
    failures: FailureConfig = field(default_factory=FailureConfig)
    examples_per_step: int = number(
        32,
        at_least=1,
        at_most=10**6,
        help="rows, or with data.online=true prompts, of one optimizer step, over all ranks",
    )


def check_distill(cfg: DistillConfig) -> None:
    """Refuse settings of ``rlpost distill`` that cannot work.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    if cfg.data.online:
        check_learning(cfg, models=2, generates=True, samples=True)
        _check_online(cfg)
    else:
        check_scored_learning(cfg)
        check_offline(cfg, options=SampledOptions)
        if cfg.data.on_policy_fraction != 1:
            raise UserError(
                f"data.on_policy_fraction={cfg.data.on_policy_fraction:g} has no effect without "
                "data.online=true, where every response is given; set it, or leave it out"
            )
    check_adapter(cfg.adapter, cfg.trainer)
    refuse_supervised_only(cfg.adapter, why="a teacher is compared at the same tokens")
    check_teacher(cfg.teacher, online=cfg.data.online)
    every = getattr(cfg.adapter, "diagnose_every", 0)
    if every and cfg.teacher.zero_stage == 3 and cfg.trainer.num_ranks > 1:
        raise UserError(
            f"adapter.diagnose_every={every} measures on one rank, which cannot ask alone a "
            "teacher that teacher.zero_stage=3 divides; set teacher.zero_stage=0, or leave "
            "adapter.diagnose_every out"
        )


def _check_online(cfg: DistillConfig) -> None:
    check_online_data(cfg, own=("train_on",))
    refuse_masked_overage(cfg, why="every token that the student samples is compared")
    for place, given in (("rewards", cfg.rewards), ("reward_models", cfg.reward_models)):
        if given != getattr(SampledOptions(), place):
            raise UserError(
                f"{place}.* has no effect in rlpost distill, where the teacher's distribution is "
                "learned and not a reward; leave it out, and use verifier=KIND to measure answers"
            )
    if cfg.rollout.on_verifier_error != ResponsesConfig().on_verifier_error:
        raise UserError(
            f"rollout.on_verifier_error={cfg.rollout.on_verifier_error.value} has no effect in "
            "rlpost distill, where every response is compared, whatever a verifier says; leave it "
            "out"
        )
    if cfg.failures.idle_steps != FailureConfig().idle_steps:
        raise UserError(
            f"failures.idle_steps={cfg.failures.idle_steps} has no effect in rlpost distill, where "
            "every step with a sample updates the student; leave it out"
        )
    check_samples(cfg)
