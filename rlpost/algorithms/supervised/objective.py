"""What one optimizer step of a supervised stage minimises: the loss and what is added to it.

Owns the assembly per token and what is measured. Refuses to own masks and denominators
(reduce.py), the losses (losses.py) and the KL estimate (kl.py).

Legend: R trained tokens of one micro-batch.
"""

from dataclasses import dataclass, field
from typing import Any

from rlpost.algorithms.diagnostics import Diagnostics
from rlpost.algorithms.kl import KLForm, kl_estimate
from rlpost.algorithms.loss import Loss, LossBatch, Outputs
from rlpost.algorithms.supervised.losses import LikelihoodConfig, losses
from rlpost.bounds import number


@dataclass(kw_only=True)
class StartKLConfig:
    """Penalty for leaving the model that training started from, against forgetting.

    It is the k3 estimate of KL(policy || start) at the trained tokens. These were not sampled from
    the policy, so it is a distance that is 0 at the start and grows with every changed log-prob,
    not an unbiased estimate of the divergence.
    """

    coefficient: float = number(
        0.0,
        at_least=0,
        at_most=1000,
        hint="0.1 is a moderate pull; 0 needs no reference model",
        help="weight of the penalty; 0 needs no reference model",
    )


@dataclass(frozen=True, kw_only=True)
class LikelihoodObjective:
    """``loss + kl_coefficient * k3(policy, start)`` of every trained token.

    ``metrics`` is the prefix of what it reports, each a mean over the trained tokens: ``nll`` (in
    nats, whatever the loss is), ``entropy``, ``token_accuracy`` (the share that the policy finds
    most likely) and, with a KL term, ``kl``.

    Example: ``LikelihoodObjective(loss=DFTConfig(), metrics="sft")``
    """

    loss: Any = field(default_factory=LikelihoodConfig)  # config of a registered loss
    kl_coefficient: float = 0.0
    metrics: str = "actor"

    @property
    def columns(self) -> tuple[str, ...]:
        """See ``loss.Objective``."""
        return ("weight_R", "ref_logprobs_R") if self.kl_coefficient else ("weight_R",)

    def __call__(self, outputs: Outputs, batch: LossBatch) -> Loss:
        """Evaluate one micro-batch."""
        logprobs_R = outputs.scores_R
        values_R = losses.get(self.loss.kind).target(logprobs_R, self.loss)
        measured = {
            "nll": -logprobs_R,
            "entropy": outputs.entropy_R,
            "token_accuracy": outputs.is_top_R,
        }
        if self.kl_coefficient:
            kl_R = kl_estimate(logprobs_R, batch.masked("ref_logprobs_R"), form=KLForm.k3)
            values_R = values_R + self.kl_coefficient * kl_R
            measured["kl"] = kl_R
        means = {
            f"{self.metrics}/{name}": each.detach()
            for name, each in measured.items()
            if each is not None
        }
        return Loss(values_R=values_R, diagnostics_R=Diagnostics(means=means))
