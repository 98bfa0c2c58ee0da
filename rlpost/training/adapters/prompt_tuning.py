"""Prompt tuning: trained embeddings in front of every sequence, beside a frozen model.

Owns the options. Refuses to own the embeddings and how they come before packed sequences
(virtual_tokens.py).

Source: https://arxiv.org/abs/2104.08691.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from rlpost.bounds import number
from rlpost.training.adapters.config import AdapterConfig, Served
from rlpost.training.adapters.registry import Method, Setting, adapters


@dataclass(kw_only=True)
class PromptTuningConfig(AdapterConfig):
    """Trained embeddings in front of every sequence, arXiv 2104.08691; supervised stages only."""

    served: ClassVar[Served] = Served.merged  # in fact never: supervised_only
    supervised_only: ClassVar[bool] = True
    zero_stages: ClassVar[tuple[int, ...]] = (0, 1, 2)
    stage_reason: ClassVar[str] = "the embeddings are read whole, by no layer of the model"
    no_muon: ClassVar[str] = "it trains embeddings, and Muon is for matrices of layers"

    kind: str = "prompt_tuning"
    num_virtual_tokens: int = number(
        20,
        at_least=1,
        at_most=10**4,
        hint="20 to 100 is usual",
        help="embeddings in front of a sequence, which come on top of its own tokens",
    )

    @classmethod
    def of_peft(cls, fields: Mapping[str, Any]) -> Self | None:
        if fields.get("peft_type") != "PROMPT_TUNING":
            return None
        return cls(num_virtual_tokens=fields["num_virtual_tokens"])


@adapters.register("prompt_tuning", PromptTuningConfig)
def prompt_tuning(cfg: PromptTuningConfig) -> Method:
    """The model of [P; x], with P at first the embeddings of tokens that are drawn."""
    return Method(peft=lambda setting: _prompt(cfg, setting))


def _prompt(cfg: PromptTuningConfig, setting: Setting) -> Any:
    from peft import PromptTuningConfig as PeftConfig
    from peft import PromptTuningInit

    return PeftConfig(
        num_virtual_tokens=cfg.num_virtual_tokens,
        prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
        task_type=setting.task_type,
    )
