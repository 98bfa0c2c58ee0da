"""DPO and what keeps its comparison: the policy's margin against the reference's.

Legend: see inputs.py. ``d`` is the margin of the log-ratios log(pi / pi_ref), chosen - rejected.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from rlpost.algorithms.preference.inputs import (
    PairInputs,
    PreferenceLossConfig,
    preference_losses,
)


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
    return -logsigmoid(config.beta * (x.policy_margin_U - x.ref_margin_U))
