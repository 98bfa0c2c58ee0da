"""The loss of held-out examples, whatever is trained with, and its names.

Owns what is measured. Refuses to own the measurement (stages/learning/heldout.py).
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rlpost.algorithms.supervised import LikelihoodObjective
from rlpost.stages.learning.heldout import HeldoutMeans, heldout_names

_NUMBERS = ("loss", "perplexity", "token_accuracy")


def heldout_loss(stage: str, **parts: Any) -> HeldoutMeans:
    """Return what measures ``<stage>/heldout_loss``, ``.._perplexity`` and ``.._token_accuracy``.

    The loss is the negative log-likelihood in nats per token whatever is trained with, and the
    perplexity its exponential. ``parts`` are fields of ``HeldoutMeans``.
    """

    def numbers(measured: Mapping[str, float]) -> Mapping[str, float]:
        loss = measured[f"{stage}/nll"]
        values = (loss, math.exp(min(loss, 700.0)), measured[f"{stage}/token_accuracy"])
        return dict(zip(_NUMBERS, values, strict=True))

    objective = LikelihoodObjective(metrics=stage)
    return HeldoutMeans(stage=stage, objective=objective, numbers=numbers, **parts)


def measured_names(stage: str, sources: Iterable[str]) -> list[str]:
    """Return the names of all that is measured on these sources; of none, nothing."""
    return heldout_names(stage, sources, numbers=_NUMBERS)
