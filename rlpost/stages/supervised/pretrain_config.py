"""The options of ``rlpost pretrain``, and the rules between them.

Owns what no other stage has. Refuses to own what every stage has that learns from a data set
(stages/learning/config.py).
"""

from dataclasses import dataclass, field

from rlpost.bounds import number
from rlpost.data.bad_rows import OnLong
from rlpost.data.supervised import SupervisedDataConfig
from rlpost.errors import UserError
from rlpost.stages.learning.config import (
    LearnedDataConfig,
    ScoredLearningConfig,
    check_scored_learning,
)
from rlpost.training.adapters.check import check_adapter


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

    def check(self, path: str) -> None:
        """Raises UserError: a setting of the data is impossible, or has no effect."""
        super().check(path)
        if self.chat_template_kwargs:
            raise UserError(
                f"{path}.chat_template_kwargs has no effect, because documents are not rendered "
                "with a chat template; leave it out"
            )
        if self.on_long is not OnLong.error and self.max_tokens is None:
            raise UserError(
                f"{path}.on_long={self.on_long.value} has no effect without {path}.max_tokens, "
                "because documents of any length are cut into windows; leave it out, or set "
                f"{path}.max_tokens"
            )


@dataclass(kw_only=True)
class PretrainConfig(ScoredLearningConfig, LearnedDataConfig):
    """Everything ``rlpost pretrain`` can be told."""

    data: PretrainDataConfig = field(default_factory=PretrainDataConfig)
    examples_per_step: int = number(
        32, at_least=1, at_most=10**6, help="documents of one optimizer step, over all ranks"
    )


def check_pretrain(cfg: PretrainConfig) -> None:
    """Refuse settings of ``rlpost pretrain`` that cannot work.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    check_scored_learning(cfg)
    check_adapter(cfg.adapter, cfg.trainer)
    if cfg.data.window > cfg.trainer.max_tokens_per_micro_batch:
        raise UserError(
            f"data.window={cfg.data.window} must be at most trainer.max_tokens_per_micro_batch="
            f"{cfg.trainer.max_tokens_per_micro_batch}, because a window is never split; lower it, "
            "or raise the other"
        )
