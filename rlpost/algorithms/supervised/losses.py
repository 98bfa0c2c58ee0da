"""What one written token costs: the losses of supervised stages.

Owns each loss and its registry. Refuses to own which tokens are learned and how they are averaged:
both are in the weights (reduce.py). Invariant: a loss returns one value per token and never
averages, so the gradient cannot depend on how examples were packed.

Legend: R trained tokens of one micro-batch. Log-probs are nats in float32. A loss is
``loss(logprobs_R, config) -> values_R``.
"""

from dataclasses import dataclass

from torch import Tensor

from rlpost.registry import Registry

losses = Registry("loss")


@dataclass(kw_only=True)
class LikelihoodConfig:
    """Negative log-likelihood, the usual loss."""

    kind: str = "nll"


@losses.register("nll", LikelihoodConfig)
def nll(logprobs_R: Tensor, config: LikelihoodConfig) -> Tensor:
    """-log p."""
    return -logprobs_R


@dataclass(kw_only=True)
class DFTConfig:
    """Dynamic fine-tuning: tokens that the model finds unlikely pull less, arXiv 2508.05629."""

    kind: str = "dft"


@losses.register("dft", DFTConfig)
def dft(logprobs_R: Tensor, config: DFTConfig) -> Tensor:
    """-sg(p) log p, where sg stops the gradient.

    The gradient of -log p grows as 1/p times that of p; the factor takes the 1/p away.
    """
    return -logprobs_R.detach().exp() * logprobs_R
