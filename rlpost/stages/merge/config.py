"""The options of ``rlpost merge``, and the rules between them.

Owns what can be asked for. Refuses to own what the files decide (adapter.py, several.py).
Invariant: an option that has no effect on the merge that is asked for is refused.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from rlpost.bounds import check_config, number, numbers, option
from rlpost.config.schema import RunConfig
from rlpost.errors import UserError
from rlpost.merging.methods import merges
from rlpost.merging.methods.base import MOST_WEIGHT

_ADDING = ("concatenation", "svd")
_CHOOSING = "greedy_soup"
_KNOWN = (*sorted(entry.name for entry in merges), _CHOOSING, *_ADDING)


class MergedDType(Enum):
    """What the merged weights are written in; ``base``: what each one has in the base's files."""

    base = "base"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass(kw_only=True)
class MergeBaseConfig:
    """The model that an adapter is merged into, or from which the models differ."""

    path: str | None = option(
        None,
        help="base: embedded model, local directory or hub id; null: as adapter or file say",
    )


@dataclass(kw_only=True)
class MergeSettings:
    """What is merged, and how."""

    config: str | None = option(
        None, help="YAML file with mergekit's keys: models, method and parameters; null: none"
    )
    method: str | None = option(None, help=f"one of {', '.join(_KNOWN)}; null: as the file says")
    models: list[str] = option(
        [], help="what is merged: model directories, runs, names of runs; empty: as the file says"
    )
    weights: list[float] = numbers(
        at_least=-MOST_WEIGHT, at_most=MOST_WEIGHT, help="one for each model; empty: all alike"
    )
    density: float | None = number(
        None, above=0, at_most=1, help="share of each task vector that is kept; null: all of it"
    )
    t: float | None = number(
        None, at_least=0, at_most=1, help="of slerp, 0: the first model, 1: the second; null: 0.5"
    )
    rank: int | None = number(
        None, at_least=1, at_most=10**5, help="of the adapter that svd makes of several"
    )
    evaluate: list[str] = option(
        [], help="options of rlpost evaluate that score a greedy_soup, such as suites=[general]"
    )
    normalize: bool | None = option(
        None, help="divide by the sum of the weights; null: as the method does"
    )
    tokenizer: str | None = option(
        None, help="one of the models, whose tokenizer is kept; null: of the base or the first"
    )
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

    @property
    def adds_adapters(self) -> bool:
        """Whether several adapters become one."""
        return self.method in _ADDING

    @property
    def chooses(self) -> bool:
        """Whether an evaluation decides which models are averaged."""
        return self.method == _CHOOSING


@dataclass(kw_only=True)
class MergeConfig:
    """Everything ``rlpost merge`` can be told."""

    run: RunConfig = field(default_factory=RunConfig)
    seed: int = number(0, at_least=0, at_most=2**31 - 1, help="of random masks")
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
    settings = cfg.merge
    several = bool(settings.config or settings.method or settings.models)
    if several == bool(cfg.adapter):
        raise UserError(
            "merge one thing: an adapter into its base with adapter=DIR, or several models with "
            "merge.config=FILE.yaml or merge.method=linear merge.models=[A,B]"
            + (", and not both" if several else "")
        )
    _refuse_idle(cfg, _OF_ADAPTERS if several else _OF_MODELS)
    if not several:
        return
    if settings.config:
        _refuse_idle(cfg, _IN_FILES)
    elif not settings.method or not settings.models:
        raise UserError(
            "merge.method and merge.models belong together: for example merge.method=linear "
            "merge.models=[A,B]"
        )
    if settings.method and settings.method not in _KNOWN:
        close = difflib.get_close_matches(settings.method, _KNOWN, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(
            f"merge.method must be one of {', '.join(_KNOWN)}, got {settings.method!r:.100}{hint}"
        )
    if settings.adds_adapters:
        _refuse_idle(cfg, _OF_WHOLE_MODELS)
    if settings.chooses:
        _refuse_idle(cfg, _OF_WEIGHTED)
    if settings.chooses != bool(settings.evaluate):
        raise UserError(
            "merge.evaluate belongs to merge.method=greedy_soup, which needs it: give for example "
            'merge.method=greedy_soup merge.evaluate=["suites=[general]"]'
        )
    if (settings.method == "svd") != (settings.rank is not None):
        raise UserError(
            "merge.rank belongs to merge.method=svd, which needs it: give for example "
            "merge.method=svd merge.rank=16; concatenation is exact, and its rank is the sum"
        )
    if settings.weights and len(settings.weights) != len(settings.models):
        raise UserError(
            f"merge.weights must have one number for each of the {len(settings.models)} models, "
            f"got {len(settings.weights)}"
        )


_OF_ADAPTERS = {"dequantize": "an adapter into its base", "drift_prompts": "an adapter"}
_OF_MODELS = dict.fromkeys(
    ("weights", "density", "t", "rank", "evaluate", "normalize", "tokenizer"), "several models"
)
_OF_WHOLE_MODELS = dict.fromkeys(
    ("density", "t", "normalize", "tokenizer", "dtype"), "whole models"
)
_OF_WEIGHTED = dict.fromkeys(("weights", "density", "t", "normalize"), "with given weights")
_IN_FILES = dict.fromkeys(
    ("method", "models", "weights", "density", "t", "rank", "evaluate", "normalize"),
    "models that options name",
)


def _refuse_idle(cfg: MergeConfig, names: Mapping[str, str]) -> None:
    """Refuse settings that only mean something where other things are merged."""
    usual = MergeSettings()
    for name, where in names.items():
        value = getattr(cfg.merge, name)
        if value != getattr(usual, name):
            way_out = "say it in the file" if names is _IN_FILES else "leave it out"
            raise UserError(
                f"merge.{name}={value} has an effect where one merges {where} only; {way_out}"
            )
