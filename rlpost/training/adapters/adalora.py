"""AdaLoRA: LoRA whose ranks move to the layers where they matter most.

Owns the options and the schedule. Refuses to own what is done after an update (allocation.py).

Source: https://arxiv.org/abs/2303.10512.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

from rlpost.bounds import number
from rlpost.errors import UserError
from rlpost.training.adapters.config import MOST_ALPHA, MOST_RANK, TargetedConfig
from rlpost.training.adapters.registry import Companion, Method, Setting, adapters


@dataclass(kw_only=True)
class AdaLoRAConfig(TargetedConfig):
    """LoRA that takes ranks from layers which need few, arXiv 2303.10512."""

    is_converted: ClassVar[bool] = True
    no_muon: ClassVar[str] = (
        "it makes all directions of a matrix equally long, and the adapter tells by their "
        "weights which matter"
    )
    zero_stages: ClassVar[tuple[int, ...]] = (0, 1, 2)
    stage_reason: ClassVar[str] = "ranks are moved by what whole matrices are between two passes"

    kind: str = "adalora"
    rank: int = number(
        16,
        at_least=1,
        at_most=MOST_RANK,
        hint="8 to 64 is usual",
        help="mean rank of a layer at last",
    )
    initial_rank: int = number(
        24,
        at_least=2,
        at_most=MOST_RANK,
        hint="1.5 * rank is usual",
        help="rank of a layer at first",
    )
    alpha: float = number(
        32.0,
        above=0,
        at_most=MOST_ALPHA,
        hint="once or twice the rank is usual",
        help="scale: the product is multiplied by alpha / initial_rank",
    )
    warmup: float = number(
        0.1, at_least=0, below=1, help="share of the updates before ranks are taken away"
    )
    settled: float = number(
        0.3, above=0, below=1, help="share of the updates, the last ones, with the ranks at last"
    )
    every: int = number(
        10, at_least=1, at_most=10**6, help="updates between two allocations of ranks"
    )
    orthogonality: float = number(
        0.5, at_least=0, at_most=100, help="weight of the term that keeps directions apart"
    )

    def check(self, path: str) -> None:
        """Raises UserError: no rank could be taken away, or there is no time for it."""
        super().check(path)
        if self.initial_rank <= self.rank:
            raise UserError(
                f"{path}.initial_rank must be above {path}.rank={self.rank}, got "
                f"{self.initial_rank}: no rank could be taken away; 1.5 * rank is usual"
            )
        if self.warmup + self.settled >= 1:
            raise UserError(
                f"{path}.warmup + {path}.settled must be below 1, got {self.warmup:g} + "
                f"{self.settled:g}: no update would be left in which ranks are taken away"
            )

    @property
    def served_rank(self) -> int:
        return self.initial_rank  # a rank that was taken away stays as zeros

    @classmethod
    def of_peft(cls, fields: Mapping[str, Any]) -> Self | None:
        if fields.get("peft_type") != "ADALORA" or fields.get("rank_pattern"):
            return None
        targets = fields.get("target_modules")
        return cls(
            rank=fields["target_r"],
            initial_rank=fields["init_r"],
            alpha=float(fields["lora_alpha"]),
            every=fields["deltaT"],
            orthogonality=float(fields["orth_reg_weight"]),
            target_modules=targets if isinstance(targets, str) else sorted(targets or []),
            modules_to_save=list(fields.get("modules_to_save") or []),
        )


@adapters.register("adalora", AdaLoRAConfig)
def adalora(cfg: AdaLoRAConfig) -> Method:
    """W + alpha / initial_rank * B diag(E) A, with E zero at first and at last mostly zero."""
    return Method(peft=partial(_layers, cfg), companion=partial(_allocation, cfg))


def _allocation(cfg: AdaLoRAConfig, module: Any, setting: Setting) -> Companion:
    from rlpost.training.adapters.allocation import Allocation

    return Allocation(module.model, orthogonality=cfg.orthogonality)


def _layers(cfg: AdaLoRAConfig, setting: Setting) -> Any:
    from peft import AdaLoraConfig

    updates = max(setting.total_steps, 3)
    # The last allocation needs the scores of one update at least before its own.
    final = min(max(1, round(cfg.settled * updates)), updates - 2)
    initial = min(round(cfg.warmup * updates), updates - final - 1)
    targets = cfg.target_modules
    return AdaLoraConfig(
        target_r=cfg.rank,
        init_r=cfg.initial_rank,
        lora_alpha=cfg.alpha,
        lora_dropout=cfg.dropout,
        tinit=initial,
        tfinal=final,
        deltaT=cfg.every,
        total_step=updates,
        orth_reg_weight=cfg.orthogonality or 1e-9,  # peft asks for one; the term is ours
        target_modules=targets if isinstance(targets, str) else list(targets),
        modules_to_save=list(cfg.modules_to_save) or None,
        task_type=setting.task_type,
    )
