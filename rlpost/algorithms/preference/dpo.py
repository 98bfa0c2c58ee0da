"""The losses that compare with a reference: DPO and its variants.

Legend: see inputs.py. ``d`` is the margin of the log-ratios log(pi / pi_ref), chosen - rejected.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from rlpost.algorithms.preference.inputs import (
    PairInputs,
    PreferenceLossConfig,
    preference_losses,
)
from rlpost.bounds import number


@dataclass(kw_only=True)
class DPOConfig(PreferenceLossConfig):
    """Direct preference optimisation, arXiv 2305.18290."""

    use: ClassVar[str] = "The usual first choice for pairs, from a fine-tuned model."
    watch: ClassVar[str] = (
        "`rewards/chosen` usually falls, only slower than `rewards/rejected`; where it falls far, "
        "use `loss=rpo`."
    )

    kind: str = "dpo"


@preference_losses.register("dpo", DPOConfig)
def dpo(x: PairInputs, config: DPOConfig) -> Tensor:
    """-log sigma(beta d). It is log 2 where the policy is the reference."""
    return -logsigmoid(config.beta * _margin(x))


@dataclass(kw_only=True)
class RPOConfig(PreferenceLossConfig):
    """DPO with the likelihood of the chosen response (iterative RPO), arXiv 2404.19733.

    The likelihood is a mean over the chosen tokens of the whole optimizer batch; the paper's is a
    mean of responses' means. It is not the reward-aware method of the same abbreviation.
    """

    use: ClassVar[str] = "Where the chosen response must not become less likely, as in reasoning."
    watch: ClassVar[str] = (
        "`logps/chosen` should rise or stay; `preference/nll` far below its start means that the "
        "chosen responses are learned by heart."
    )

    kind: str = "rpo"
    alpha: float = number(
        1.0,
        at_least=0,
        at_most=1000,
        hint="1 is the paper's; 0 is loss=dpo",
        help="weight of the chosen responses' negative log-likelihood",
    )

    @property
    def nll_weight(self) -> float:
        """See PreferenceLossConfig."""
        return self.alpha


@preference_losses.register("rpo", RPOConfig)
def rpo(x: PairInputs, config: RPOConfig) -> Tensor:
    """-log sigma(beta d), + alpha NLL(chosen). It starts at log 2 + alpha NLL(chosen)."""
    return -logsigmoid(config.beta * _margin(x))


@dataclass(kw_only=True)
class CDPOConfig(PreferenceLossConfig):
    """Conservative DPO: labels that are wrong at a known rate, https://ericmitchell.ai/cdpo.pdf."""

    use: ClassVar[str] = "Pairs of which some are known to be the wrong way round."
    watch: ClassVar[str] = (
        "`rewards/margins` stops near log((1 - e) / e), the margin at which a label that is wrong "
        "at the rate e is explained."
    )

    kind: str = "cdpo"
    label_smoothing: float = number(
        0.1,
        at_least=0,
        below=0.5,
        hint="0.1 is usual; 0 is loss=dpo; at 0.5 the labels say nothing",
        help="assumed share e of pairs whose label is wrong",
    )


@preference_losses.register("cdpo", CDPOConfig)
def cdpo(x: PairInputs, config: CDPOConfig) -> Tensor:
    """-(1 - e) log sigma(beta d) - e log sigma(-beta d). It starts at log 2."""
    reward_U = config.beta * _margin(x)
    wrong = config.label_smoothing
    return -(1 - wrong) * logsigmoid(reward_U) - wrong * logsigmoid(-reward_U)


@dataclass(kw_only=True)
class RobustConfig(PreferenceLossConfig):
    """Robust DPO: unbiased under labels that are flipped at a known rate, arXiv 2403.00409."""

    use: ClassVar[str] = "Pairs with a known share of flipped labels, when DPO follows the noise."
    watch: ClassVar[str] = (
        "The loss of a pair has no lower bound, so `rewards/margins` grows without end: stop when "
        "`rewards/accuracies` of held-out pairs no longer rises."
    )

    kind: str = "robust"
    label_smoothing: float = number(
        0.1,
        at_least=0,
        below=0.5,
        hint="0.1 is usual; 0 is loss=dpo; at 0.5 the labels say nothing",
        help="known share e of pairs whose label is flipped",
    )


@preference_losses.register("robust", RobustConfig)
def robust(x: PairInputs, config: RobustConfig) -> Tensor:
    """(-(1 - e) log sigma(beta d) + e log sigma(-beta d)) / (1 - 2 e). It starts at log 2."""
    reward_U = config.beta * _margin(x)
    wrong = config.label_smoothing
    right_U, flipped_U = -logsigmoid(reward_U), -logsigmoid(-reward_U)
    return ((1 - wrong) * right_U - wrong * flipped_U) / (1 - 2 * wrong)


@dataclass(kw_only=True)
class IPOConfig(PreferenceLossConfig):
    """Identity preference optimisation, arXiv 2310.12036.

    The log-ratios are means over the tokens of each response, so that the target does not depend on
    lengths; the paper's formula names sums. ``beta`` is the paper's tau.
    """

    per_token: ClassVar[bool] = True

    use: ClassVar[str] = "Few or clear-cut pairs, on which DPO would raise the margin for ever."
    watch: ClassVar[str] = (
        "It starts at 1 / (4 beta^2), 25 with beta 0.1, and the margin per token stops at "
        "1 / (2 beta): a beta below 0.1 asks for margins that no model reaches."
    )

    kind: str = "ipo"


@preference_losses.register("ipo", IPOConfig)
def ipo(x: PairInputs, config: IPOConfig) -> Tensor:
    """(mean_w log(pi / pi_ref) - mean_l log(pi / pi_ref) - 1 / (2 beta))^2, means over tokens."""
    chosen_U = x.chosen_logratio_U / x.chosen_tokens_U
    rejected_U = x.rejected_logratio_U / x.rejected_tokens_U
    return (chosen_U - rejected_U - 1 / (2 * config.beta)).square()


@dataclass(kw_only=True)
class HingeConfig(PreferenceLossConfig):
    """The hinge of SLiC-HF and RSO on rewards against a reference, arXiv 2305.10425, 2309.06657."""

    use: ClassVar[str] = "Pairs whose order is certain: what is ordered with a margin is let alone."
    watch: ClassVar[str] = (
        "It starts at 1; a pair has no gradient once its `rewards/margins` is above 1."
    )

    kind: str = "hinge"


@preference_losses.register("hinge", HingeConfig)
def hinge(x: PairInputs, config: HingeConfig) -> Tensor:
    """max(0, 1 - beta d)."""
    return relu(1 - config.beta * _margin(x))


def _margin(x: PairInputs) -> Tensor:
    return x.policy_margin_U - x.ref_margin_U
