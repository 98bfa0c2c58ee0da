"""How far a merged model's log-probs are from those of its base with the adapter beside it.

Owns the measurement, in float32, by plain peft (plain_peft.py): independent of the arithmetic that
merged. Refuses to own what is read and what follows from the result. One model is in memory at a
time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlpost.merging.plain_peft import load_plain, sequence_logprobs, with_adapter


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
    model = load_plain(base)
    with torch.no_grad():
        for module, seen in requantised.items():
            weight = model.get_submodule(module).weight
            weight.copy_(seen(weight))
    wanted = torch.cat(sequence_logprobs(with_adapter(model, adapter), sequences))
    del model
    found = torch.cat(sequence_logprobs(load_plain(merged), sequences))
    apart = (found - wanted).abs()
    return LogprobDrift(
        mean=apart.mean().item(), largest=apart.max().item(), num_tokens=apart.numel()
    )
