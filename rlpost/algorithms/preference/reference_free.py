"""The losses without a reference: CPO, SimPO and ORPO.

Nothing holds the policy near where it started but a small learning rate, the chosen response's
likelihood where the loss has it, and for SimPO and ORPO the mean over tokens.

Legend: see inputs.py.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlpost.algorithms.preference.inputs import (
    PairInputs,
    PreferenceLossConfig,
    preference_losses,
)
from rlpost.bounds import number

# A mean log-prob nearer to 0 is taken as this, without a gradient: float32 tells no probability
# from 1 that is nearer to it, and the odds of probability 1 are infinite.
LARGEST_LOGPROB = -(2.0**-23)


@dataclass(kw_only=True)
class CPOConfig(PreferenceLossConfig):
    """Contrastive preference optimisation, arXiv 2401.08417.

    The likelihood is a mean over the chosen tokens of the whole optimizer batch.
    """

    needs_reference: ClassVar[bool] = False

    use: ClassVar[str] = (
        "Good chosen responses, such as translations, and no memory for a reference."
    )
    watch: ClassVar[str] = (
        "Sums of log-probs favour short responses: see `preference/chosen_tokens` and "
        "`preference/rejected_tokens`."
    )

    kind: str = "cpo"
    beta: float = number(
        0.1, above=0, at_most=1000, hint="0.1 is usual", help="scale of the log-probs' difference"
    )
    alpha: float = number(
        1.0,
        at_least=0,
        at_most=1000,
        hint="1 is the paper's; 0 leaves the likelihood out",
        help="weight of the chosen responses' negative log-likelihood",
    )

    @property
    def nll_weight(self) -> float:
        """See PreferenceLossConfig."""
        return self.alpha


@preference_losses.register("cpo", CPOConfig)
def cpo(x: PairInputs, config: CPOConfig) -> Tensor:
    """-log sigma(beta (log pi(chosen) - log pi(rejected))), + alpha NLL(chosen)."""
    return -logsigmoid(config.beta * x.policy_margin_U)


@dataclass(kw_only=True)
class SimPOConfig(PreferenceLossConfig):
    """Simple preference optimisation, arXiv 2405.14734. ``gamma`` is not divided by beta."""

    needs_reference: ClassVar[bool] = False
    per_token: ClassVar[bool] = True

    use: ClassVar[str] = "Pairs whose lengths differ, and no memory for a reference."
    watch: ClassVar[str] = (
        "Nothing holds the policy near its start: use a small `trainer.lr` (below 1e-6 for large "
        "models) and see that other abilities stay."
    )

    kind: str = "simpo"
    beta: float = number(
        2.0, above=0, at_most=1000, hint="2 to 10 is usual", help="scale of log-probs per token"
    )
    gamma: float = number(
        1.0,
        at_least=0,
        at_most=1000,
        hint="0.25 to 0.55 times beta is usual",
        help="margin of rewards that the chosen response must win by",
    )


@preference_losses.register("simpo", SimPOConfig)
def simpo(x: PairInputs, config: SimPOConfig) -> Tensor:
    """-log sigma(beta (mean_w log pi - mean_l log pi) - gamma), means over tokens."""
    return -logsigmoid(config.beta * (x.chosen_mean_U - x.rejected_mean_U) - config.gamma)


@dataclass(kw_only=True)
class ORPOConfig(PreferenceLossConfig):
    """Odds ratio preference optimisation, arXiv 2403.07691. ``beta`` is the paper's lambda.

    The likelihood is that of the response alone, a mean over the chosen tokens of the whole
    optimizer batch.
    """

    needs_reference: ClassVar[bool] = False
    per_token: ClassVar[bool] = True

    use: ClassVar[str] = "A base model: it learns the answers and the preference in one stage."
    watch: ClassVar[str] = (
        "`preference/nll` is most of the loss; if `rewards/accuracies` stays, raise `loss.beta`."
    )

    kind: str = "orpo"
    beta: float = number(
        0.1,
        above=0,
        at_most=1000,
        hint="0.1 is the paper's lambda",
        help="weight of the odds ratio beside the likelihood",
    )

    @property
    def nll_weight(self) -> float:
        """See PreferenceLossConfig."""
        return 1.0


@preference_losses.register("orpo", ORPOConfig)
def orpo(x: PairInputs, config: ORPOConfig) -> Tensor:
    """NLL(chosen) - beta log sigma(log odds ratio), odds p / (1 - p), p = exp(mean log pi)."""
    ahead_U = _log_odds(x.chosen_mean_U) - _log_odds(x.rejected_mean_U)
    return -config.beta * logsigmoid(ahead_U)


def _log_odds(mean_U: Tensor) -> Tensor:
    """log p - log(1 - p); finite with its gradient for every log p, also at 0."""
    bounded_U = mean_U.clamp(max=LARGEST_LOGPROB)
    # expm1 alone, not two branches that `where` chooses from: an unused branch's gradient is NaN.
    return bounded_U - torch.log(-torch.expm1(bounded_U))
