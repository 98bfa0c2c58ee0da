"""The options of ``rlpost pretrain``, and the rules between them.

Owns the composition. Refuses to own the options of each part, which lie above what they configure.
"""

from dataclasses import dataclass, field

from rlpost.bounds import check_config, number, option
from rlpost.checkpoint.store import CheckpointConfig
from rlpost.cluster.session import ClusterConfig
from rlpost.config.schema import ModelConfig, RunConfig
from rlpost.control.early_stopping import EarlyStoppingConfig
from rlpost.control.failures import RestartConfig
from rlpost.data.supervised import SupervisedDataConfig
from rlpost.errors import UserError
from rlpost.stages.results import ExportConfig, check_results
from rlpost.stages.supervised.settings import HeldoutConfig, SupervisedTrainerConfig
from rlpost.tracking.config import TrackingConfig


@dataclass(kw_only=True)
class PretrainDataConfig(SupervisedDataConfig):
    """Where documents come from, and how they are cut."""

    max_tokens: int | None = number(
        None, at_least=2, at_most=10**8, help="longest document; null: of any length"
    )
    window: int = number(
        1024,
        at_least=2,
        at_most=10**7,
        help="tokens of a window, into which the documents of a step are cut one after another",
    )


@dataclass(kw_only=True)
class PretrainConfig:
    """Everything ``rlpost pretrain`` can be told."""

    run: RunConfig = field(default_factory=RunConfig)
    seed: int = number(0, at_least=0, at_most=2**31 - 1, help="of data order and initial values")
    resume: str = option(
        "auto",
        help="auto: from the latest checkpoint, if there is one; never; or a checkpoint directory",
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    data: PretrainDataConfig = field(default_factory=PretrainDataConfig)
    examples_per_step: int = number(
        32, at_least=1, at_most=10**6, help="documents of one optimizer step, over all ranks"
    )
    trainer: SupervisedTrainerConfig = field(default_factory=SupervisedTrainerConfig)
    evaluation: HeldoutConfig = field(default_factory=HeldoutConfig)
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    failures: RestartConfig = field(default_factory=RestartConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def check_pretrain(cfg: PretrainConfig) -> None:
    """Refuse settings of ``rlpost pretrain`` that cannot work.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    check_config(cfg)
    check_results(cfg)
    if cfg.cluster.offload_idle:
        raise UserError(
            "cluster.offload_idle=true has no effect in pretrain, which has one model; leave it out"
        )
    if cfg.data.window > cfg.trainer.max_tokens_per_micro_batch:
        raise UserError(
            f"data.window={cfg.data.window} must be at most trainer.max_tokens_per_micro_batch="
            f"{cfg.trainer.max_tokens_per_micro_batch}, because a window is never split; lower it, "
            "or raise the other"
        )
