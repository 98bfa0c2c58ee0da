"""The likelihood of tokens that somebody wrote, as an objective.

Owns the negative log-likelihood. Refuses to own which tokens are learned and how they are
averaged: both are in the weights (reduce.py).
"""

from dataclasses import dataclass

from rlpost.algorithms.diagnostics import Diagnostics
from rlpost.algorithms.loss import Loss, LossBatch, Outputs


@dataclass(frozen=True, kw_only=True)
class LikelihoodObjective:
    """-log pi of every scored token: supervised fine-tuning, and a mixture with other losses.

    ``metrics`` is the prefix of what it reports: ``<metrics>/nll`` in nats per token.
    """

    metrics: str = "actor"

    @property
    def columns(self) -> tuple[str, ...]:
        """See ``loss.Objective``."""
        return ("weight_R",)

    def __call__(self, outputs: Outputs, batch: LossBatch) -> Loss:
        """Evaluate one micro-batch."""
        values_R = -outputs.scores_R
        means = {f"{self.metrics}/nll": values_R.detach()}
        if outputs.entropy_R is not None:
            means[f"{self.metrics}/entropy"] = outputs.entropy_R.detach()
        return Loss(values_R=values_R, diagnostics_R=Diagnostics(means=means))
