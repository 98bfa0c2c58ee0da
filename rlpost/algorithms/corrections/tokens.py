"""Corrections that decide about each token separately: TIS, IcePop, token mask.

Legend: see base.py.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from rlpost.algorithms.corrections.base import (
    Correction,
    CorrectionConfig,
    corrections,
    log_rho,
    mask,
)
from rlpost.algorithms.diagnostics import Diagnostics
from rlpost.algorithms.losses.base import PolicyLossInputs
from rlpost.bounds import number


@dataclass(kw_only=True)
class TISConfig(CorrectionConfig):
    """Truncated importance sampling, https://fengyao.notion.site/off-policy-rl.

    With a proximal anchor and ``high: .inf`` the clipped loss becomes decoupled PPO,
    arXiv 2110.00641.
    """

    weighs: ClassVar[bool] = True
    use: ClassVar[str] = (
        "The first choice where engines disagree; on the command line decoupled PPO is "
        "`algorithm.corrections.tis.high=inf`."
    )
    watch: ClassVar[str] = (
        "Truncated weights are biased (`correction/tis/clipped_fraction`), and a small "
        "`correction/weight/eff_sample_size` says that a few tokens carry the batch."
    )

    kind: str = "tis"
    low: float = number(
        0.0, at_least=0, below=1, hint="TIS uses 0", help="weights below this are raised to it"
    )
    high: float = number(
        2.0,
        above=1,
        at_most=math.inf,
        hint="it bounds the ratio itself: TIS uses 2.0",
        help="weights above this are cut to it",
    )


@corrections.register("tis", TISConfig)
def tis(inputs: PolicyLossInputs, config: TISConfig) -> Correction:
    """clip(rho, low, high)."""
    rho_R = log_rho(inputs).exp()
    weight_R = rho_R.clamp(config.low, config.high)
    means = {"correction/tis/clipped_fraction": weight_R != rho_R}
    return Correction(weight_R=weight_R, diagnostics=Diagnostics(means=means))


@dataclass(kw_only=True)
class IcePopConfig(CorrectionConfig):
    """IcePop: importance weights inside a band, weight 0 outside it; arXiv 2510.18855."""

    weighs: ClassVar[bool] = True
    use: ClassVar[str] = (
        "Mixture-of-experts models, whose engines may route differently: tokens far off are "
        "dropped."
    )
    watch: ClassVar[str] = (
        "`correction/icepop/masked_fraction` should stay below a percent; if it rises, the "
        "mismatch is growing."
    )

    kind: str = "icepop"
    low: float = number(
        0.5,
        above=0,
        below=1,
        hint="IcePop uses 0.5 and 5.0",
        help="a token whose weight is below this is left out",
    )
    high: float = number(
        5.0,
        above=1,
        at_most=1e6,
        hint="IcePop uses 0.5 and 5.0",
        help="a token whose weight is above this is left out",
    )


@corrections.register("icepop", IcePopConfig)
def icepop(inputs: PolicyLossInputs, config: IcePopConfig) -> Correction:
    """rho where low <= rho <= high, else 0."""
    rho_R = log_rho(inputs).exp()
    inside_R = (rho_R >= config.low) & (rho_R <= config.high)
    means = {"correction/icepop/masked_fraction": ~inside_R}
    return Correction(
        weight_R=rho_R.masked_fill(~inside_R, 0.0), diagnostics=Diagnostics(means=means)
    )


@dataclass(kw_only=True)
class TokenMaskConfig(CorrectionConfig):
    """Rejection of single tokens; those kept are not reweighted.

    verl's ``rollout_rs: token``, https://verl.readthedocs.io/en/latest/algo/rollout_corr.html.
    """

    use: ClassVar[str] = (
        "To drop tokens the policies disagree on without weighing the others: fits aipo and dppo."
    )
    watch: ClassVar[str] = (
        "The mismatch of the kept tokens is not corrected; see "
        "`correction/token_mask/masked_fraction`."
    )

    kind: str = "token_mask"
    low: float = number(
        0.5,
        above=0,
        below=1,
        hint="start at 0.5 and 2.0",
        help="a token whose ratio is below this is left out",
    )
    high: float = number(
        2.0,
        above=1,
        at_most=1e6,
        hint="start at 0.5 and 2.0",
        help="a token whose ratio is above this is left out",
    )


@corrections.register("token_mask", TokenMaskConfig)
def token_mask(inputs: PolicyLossInputs, config: TokenMaskConfig) -> Correction:
    """1 where low <= rho <= high, else 0."""
    log_rho_R = log_rho(inputs)
    kept_R = (log_rho_R >= math.log(config.low)) & (log_rho_R <= math.log(config.high))
    return mask("token_mask", kept_R, log_rho_R)
