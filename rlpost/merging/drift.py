"""How far a merged model's log-probs are from those of its base with the adapter beside it.

Owns the measurement, in float32, by plain peft: independent of the arithmetic that merged. Refuses
to own what is read and what follows from the result. One model is in memory at a time.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlpost.foreign_output import logged_output


@dataclass(frozen=True, kw_only=True)
class LogprobDrift:
    """Absolute differences of log-probs, in nats. Example: ``LogprobDrift(mean=2e-3, largest=0.03,
    num_tokens=412)``
    """

    mean: float
    largest: float
    num_tokens: int

    def __str__(self) -> str:
        return (
            f"log-probs of {self.num_tokens} tokens differ by {self.mean:.2g} on average and "
            f"{self.largest:.2g} at most from those of the base with the adapter beside it"
        )


def measure_drift(
    base: Path,
    adapter: Path,
    merged: Path,
    sequences: Sequence[Sequence[int]],
    *,
    requantised: Mapping[str, Callable[[Tensor], Tensor]],
) -> LogprobDrift:
    """Compare a merged model with what it was made of.

    Args:
        base: model directory.
        adapter: adapter directory.
        merged: model directory of the result.
        sequences: token ids; every token after the first of a sequence is scored.
        requantised: module of the base -> what training saw of its weight.
    """
    from peft import PeftModel

    model = _load(base)
    with torch.no_grad():
        for module, seen in requantised.items():
            weight = model.get_submodule(module).weight
            weight.copy_(seen(weight))
    with logged_output(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = _logprobs(PeftModel.from_pretrained(model, str(adapter)), sequences)
    del model
    found = _logprobs(_load(merged), sequences)
    apart = (found - wanted).abs()
    return LogprobDrift(
        mean=apart.mean().item(), largest=apart.max().item(), num_tokens=apart.numel()
    )


def _load(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    with logged_output():
        return AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32)


@torch.no_grad()
def _logprobs(model: Any, sequences: Sequence[Sequence[int]]) -> Tensor:
    model.eval()
    found = []
    for ids in sequences:
        tokens_1T = torch.tensor([list(ids)])
        logprobs_TV = model(input_ids=tokens_1T).logits[0, :-1].log_softmax(-1)
        found.append(logprobs_TV.gather(1, tokens_1T[0, 1:, None])[:, 0])
    return torch.cat(found)
