"""The options that every stage has which learns from a data set, and the rules between them.

Owns their declaration. Refuses to own what one stage alone has: its loss and its rules. Invariant:
what has no effect in such a stage is refused, whatever the stage.

Fields of a dataclass follow its bases from the last to the first, and help shows options in the
order of the fields: the data comes before what a stage adds, and the trainer behind it.

Example::

    @dataclass(kw_only=True)
    class MyConfig(LearningConfig, MyLossConfig, LearnedDataConfig): ...
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from rlpost.bounds import check_config, number, option
from rlpost.checkpoint.store import CheckpointConfig
from rlpost.cluster.session import ClusterConfig
from rlpost.cluster.verifiers import JudgedClusterConfig
from rlpost.config.schema import ModelConfig, RunConfig
from rlpost.control.early_stopping import EarlyStoppingConfig
from rlpost.control.failures import GenerationFailureConfig, RestartConfig
from rlpost.control.placement import Placement
from rlpost.data.supervised import SupervisedDataConfig
from rlpost.errors import UserError
from rlpost.rollout.generator_config import GeneratorConfig
from rlpost.stages.learning.settings import (
    HeldoutConfig,
    ScoredHeldoutConfig,
    SupervisedTrainerConfig,
)
from rlpost.stages.results import ExportConfig, check_results
from rlpost.stages.sampling.suite_settings import check_suites
from rlpost.tracking.config import TrackingConfig
from rlpost.training.adapters.config import refuse_supervised_only
from rlpost.training.optimizers.check import check_optimizer
from rlpost.weights.publisher import WeightsConfig


@dataclass(kw_only=True)
class LearnedDataConfig:
    """The run, the model it starts from and the rows of a step."""

    run: RunConfig = field(default_factory=RunConfig)
    seed: int = number(
        0, at_least=0, at_most=2**31 - 1, help="of data order, noise and initial values"
    )
    resume: str = option(
        "auto",
        help="auto: from the latest checkpoint, if there is one; never; or a checkpoint directory",
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: Any = option(MISSING, help="few weights to train beside the model's own, or none")
    data: SupervisedDataConfig = field(default_factory=SupervisedDataConfig)
    examples_per_step: int = number(
        32, at_least=1, at_most=10**6, help="rows of one optimizer step, over all ranks"
    )


@dataclass(kw_only=True)
class LearningConfig:
    """How it is trained, evaluated, saved and recorded."""

    optimizer: Any = option(MISSING, help="how gradients become updates")
    trainer: SupervisedTrainerConfig = field(default_factory=SupervisedTrainerConfig)
    evaluation: HeldoutConfig = field(default_factory=HeldoutConfig)
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    failures: RestartConfig = field(default_factory=RestartConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


@dataclass(kw_only=True)
class ScoredLearningConfig(LearningConfig):
    """The same where what is trained can answer, so that generators may score suites."""

    evaluation: ScoredHeldoutConfig = field(default_factory=ScoredHeldoutConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    failures: GenerationFailureConfig = field(default_factory=GenerationFailureConfig)
    cluster: JudgedClusterConfig = field(default_factory=JudgedClusterConfig)


def check_scored_learning(
    cfg: ScoredLearningConfig, *, models: int = 1, way_out: str = "set evaluation.suites"
) -> None:
    """Refuse settings that cannot work or have no effect; see ``check_learning``."""
    generates = bool(cfg.evaluation.suites)
    if generates:
        adapter = getattr(cfg, "adapter", None)  # of the options beside these
        refuse_supervised_only(adapter, why="evaluation.suites asks generators")
    check_learning(cfg, models=models + generates, way_out=way_out, generates=generates)
    check_suites(cfg)


def check_learning(
    cfg: LearningConfig,
    *,
    models: int = 1,
    way_out: str = "",
    generates: bool = False,
    samples: bool = False,
) -> None:
    """Refuse settings of a stage that learns from a data set which cannot work or have no effect.

    Args:
        cfg: all options of the stage.
        models: models of the run.
        way_out: how it comes to have a second model, if it can.
        generates: whether one of them generates.
        samples: whether it is learned from what is generated.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    check_config(cfg)
    check_results(cfg)
    check_optimizer(cfg.optimizer, cfg.trainer)
    stays = f"leave it out{way_out and f', or {way_out}, which needs one'}"
    if cfg.cluster.offload_idle and models == 1:
        raise UserError(f"cluster.offload_idle=true has no effect without a second model; {stays}")
    if cfg.cluster.placement is Placement.colocated and models == 1:
        raise UserError(
            f"cluster.placement=colocated has no effect without a second model; {stays}"
        )
    if cfg.cluster.placement is Placement.apart and not generates:
        raise UserError(
            "cluster.placement=apart has no effect here: nothing generates, so there is nothing "
            "to keep apart from training; leave it out"
        )
    if cfg.tracking.sample_rows != TrackingConfig().sample_rows and not samples:
        raise UserError(
            f"tracking.sample_rows={cfg.tracking.sample_rows} has no effect here: nothing is "
            "learned from samples, so there are no tables of them; leave it out"
        )
