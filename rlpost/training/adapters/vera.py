"""VeRA: two trained vectors per layer around random matrices that all layers share.

Owns the options. Refuses to own the layers, which are peft's. The shared matrices are saved too,
because another version of torch may draw others from the same seed.

Source: https://arxiv.org/abs/2310.11454.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from rlpost.bounds import number
from rlpost.training.adapters.config import MOST_RANK, TargetedConfig
from rlpost.training.adapters.registry import Method, Setting, adapters


@dataclass(kw_only=True)
class VeRAConfig(TargetedConfig):
    """Two vectors a layer around shared random matrices, arXiv 2310.11454."""

    is_converted: ClassVar[bool] = True
    no_muon: ClassVar[str] = "it trains vectors alone, and Muon is for matrices"

    kind: str = "vera"
    rank: int = number(
        256, at_least=1, at_most=MOST_RANK, hint="256 is usual", help="width of the shared matrices"
    )
    ratio: float = number(
        10.0,
        above=0,
        at_most=10**4,
        hint="10 to 100 is usual: there are few values, and they start small",
        help="rate of the vectors: ratio * trainer.lr",
    )

    @property
    def served_rank(self) -> int:
        return self.rank

    @classmethod
    def of_peft(cls, fields: Mapping[str, Any]) -> Self | None:
        if fields.get("peft_type") != "VERA" or fields.get("bias") not in (None, "none"):
            return None
        targets = fields.get("target_modules")
        return cls(
            rank=fields["r"],
            target_modules=targets if isinstance(targets, str) else sorted(targets or []),
            modules_to_save=list(fields.get("modules_to_save") or []),
        )


@adapters.register("vera", VeRAConfig)
def vera(cfg: VeRAConfig) -> Method:
    """W + diag(b) B diag(d) A, with b zero at first and A and B the same for all layers."""
    return Method(
        peft=lambda setting: _layers(cfg, setting),
        rate_factors=lambda names: {n: cfg.ratio for n in names if "vera_lambda" in n},
    )


def _layers(cfg: VeRAConfig, setting: Setting) -> Any:
    from peft import VeraConfig

    targets = cfg.target_modules
    return VeraConfig(
        r=cfg.rank,
        vera_dropout=cfg.dropout,
        save_projection=False,  # adapt.py adds them: peft finds them only in a model of its own
        target_modules=targets if isinstance(targets, str) else list(targets),
        modules_to_save=list(cfg.modules_to_save) or None,
        task_type=setting.task_type,
    )
