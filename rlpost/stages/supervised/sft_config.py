"""The options of ``rlpost sft``, and the rules between them.

Owns the composition. Refuses to own the options of each part, which lie above what they configure.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from rlpost.algorithms.reduce import ExampleAggregation
from rlpost.algorithms.supervised import StartKLConfig
from rlpost.bounds import check_config, number, option
from rlpost.checkpoint.store import CheckpointConfig
from rlpost.cluster.session import ClusterConfig
from rlpost.config.schema import ModelConfig, RunConfig
from rlpost.control.early_stopping import EarlyStoppingConfig
from rlpost.control.failures import RestartConfig
from rlpost.data.conversation.marks import TrainOn
from rlpost.data.supervised import SupervisedDataConfig
from rlpost.errors import UserError
from rlpost.stages.results import ExportConfig, check_results
from rlpost.stages.supervised.settings import HeldoutConfig, SupervisedTrainerConfig
from rlpost.tracking.config import TrackingConfig


@dataclass(kw_only=True)
class SFTDataConfig(SupervisedDataConfig):
    """Where conversations and completions come from, and what is trained of them."""

    train_on: TrainOn = option(
        TrainOn.assistant, help="every answer of the assistant, the last one, or all tokens"
    )


@dataclass(kw_only=True)
class SFTConfig:
    """Everything ``rlpost sft`` can be told."""

    run: RunConfig = field(default_factory=RunConfig)
    seed: int = number(
        0, at_least=0, at_most=2**31 - 1, help="of data order, noise and initial values"
    )
    resume: str = option(
        "auto",
        help="auto: from the latest checkpoint, if there is one; never; or a checkpoint directory",
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    data: SFTDataConfig = field(default_factory=SFTDataConfig)
    examples_per_step: int = number(
        32, at_least=1, at_most=10**6, help="rows of one optimizer step, over all ranks"
    )
    loss: Any = option(MISSING, help="loss of a token")
    reduction: ExampleAggregation = option(
        ExampleAggregation.token_mean, help="how the losses of a step's tokens are averaged"
    )
    kl: StartKLConfig = field(default_factory=StartKLConfig)
    neftune_alpha: float = number(
        0.0,
        at_least=0,
        at_most=1000,
        hint="the paper uses 5 to 15",
        help="noise on the embeddings while it learns (NEFTune); 0: none",
    )
    trainer: SupervisedTrainerConfig = field(default_factory=SupervisedTrainerConfig)
    evaluation: HeldoutConfig = field(default_factory=HeldoutConfig)
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    failures: RestartConfig = field(default_factory=RestartConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def check_sft(cfg: SFTConfig) -> None:
    """Refuse settings of ``rlpost sft`` that cannot work.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    check_config(cfg)
    check_results(cfg)
    if cfg.cluster.offload_idle and cfg.kl.coefficient == 0:
        raise UserError(
            "cluster.offload_idle=true has no effect without a second model; leave it out, or set "
            "kl.coefficient, which needs one"
        )
