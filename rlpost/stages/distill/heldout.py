"""The divergence of held-out tokens, given or sampled, and its names.

Owns what is measured. Refuses to own the measurement (stages/learning/heldout.py).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from rlpost.algorithms.distill import DistillObjective
from rlpost.stages.distill.teacher import STAGE
from rlpost.stages.learning.heldout import HeldoutMeans, heldout_names

# Name of a held-out number -> diagnostic of the objective.
_NUMBERS = {"loss": "divergence", "agreement": "agreement", "nll": "nll"}


def heldout_divergence(**parts: Any) -> HeldoutMeans:
    """Return what measures ``distill/heldout_loss``, ``.._agreement`` and ``.._nll``.

    The loss is the divergence that is trained with. ``parts`` are fields of ``HeldoutMeans``.
    """
    objective = DistillObjective(metrics=STAGE)
    return HeldoutMeans(stage=STAGE, objective=objective, numbers=_numbers, **parts)


def measured_names(sources: Iterable[str]) -> list[str]:
    """Return the names of all that is measured on these sources; of none, nothing."""
    return heldout_names(STAGE, sources, numbers=list(_NUMBERS))


def _numbers(measured: Mapping[str, float]) -> Mapping[str, float]:
    return {what: measured[f"{STAGE}/{name}"] for what, name in _NUMBERS.items()}
