"""The options of ``rlpost merge``, and the rules between them.

Owns what can be asked for. Refuses to own what the files decide (plan.py).
"""

from dataclasses import dataclass, field
from enum import Enum

from rlpost.bounds import check_config, number, option
from rlpost.config.schema import RunConfig
from rlpost.errors import UserError


class MergedDType(Enum):
    """What the merged weights are written in; ``base``: what each one has in the base's files."""

    base = "base"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass(kw_only=True)
class MergeBaseConfig:
    """The model that the adapter is merged into."""

    path: str | None = option(
        None,
        help="base: embedded model, local directory or hub id; null: the one the adapter names",
    )


@dataclass(kw_only=True)
class MergeSettings:
    """How it is merged."""

    dtype: MergedDType = option(
        MergedDType.base, help="of the merged weights; base: as in the base's files"
    )
    dequantize: bool = option(
        True,
        help="merge an adapter that learned on 4-bit weights into what those stand for; false: "
        "into the original ones",
    )
    drift_prompts: int = number(
        16,
        at_least=0,
        at_most=1000,
        help="prompts on which the result is compared with base and adapter; 0: do not compare",
    )


@dataclass(kw_only=True)
class MergeConfig:
    """Everything ``rlpost merge`` can be told."""

    run: RunConfig = field(default_factory=RunConfig)
    model: MergeBaseConfig = field(default_factory=MergeBaseConfig)
    adapter: str | None = option(
        None, help="directory of an adapter, or of a run that trained one; or such a run's name"
    )
    merge: MergeSettings = field(default_factory=MergeSettings)


def check_merge(cfg: MergeConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: names the field, the rule and the way out.
    """
    check_config(cfg)
    if not cfg.adapter:
        raise UserError(
            "adapter must name what is merged; give adapter=DIR, for example adapter=runs/sft"
        )
