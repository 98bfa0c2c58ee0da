"""Losses that use no ratio: the policy gradient itself, and likelihood of kept samples.

Legend: see base.py.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from rlpost.algorithms.loss import Loss
from rlpost.algorithms.losses.base import PolicyLossInputs, losses, ratio_diagnostics
from rlpost.algorithms.ratio import ratio
from rlpost.bounds import number


@dataclass(kw_only=True)
class ReinforceConfig:
    """Plain policy gradient, https://doi.org/10.1007/BF00992696; unbiased only on-policy."""

    use: ClassVar[str] = (
        "One update per batch on fresh samples; with `algorithm/advantage=rloo` it is RLOO."
    )
    watch: ClassVar[str] = (
        "It does not correct for updates since the samples were drawn: leave `algorithm.epochs` "
        "and `algorithm.mini_batches` at 1 and see `actor/ratio/max_deviation`."
    )

    kind: str = "reinforce"


@losses.register("reinforce", ReinforceConfig)
def reinforce(inputs: PolicyLossInputs, config: ReinforceConfig) -> Loss:
    """-A log pi. Its gradient equals ``clip``'s where the ratio is 1; its value does not."""
    values_R = -inputs.advantages_R * inputs.policy_logprobs_R
    ratio_R = ratio(inputs.policy_logprobs_R, inputs.anchor_logprobs_R)
    return Loss(values_R=values_R, diagnostics_R=ratio_diagnostics(inputs, ratio_R, {}))


@dataclass(kw_only=True)
class NLLConfig:
    """Rejection fine-tuning inside the RL loop (RFT, RAFT: arXiv 2308.01825, 2304.06767)."""

    use: ClassVar[str] = (
        "Rejection fine-tuning, with `algorithm=rft` and `selection.*`: a baseline, or a start "
        "for RL."
    )
    watch: ClassVar[str] = (
        "It never pushes a wrong response down, and `actor/entropy` falls from round to round; "
        "`actor/kept_fraction` is the share of tokens imitated."
    )

    kind: str = "nll"
    keep_above: float | None = number(
        0.0,
        at_least=-1e9,
        at_most=1e9,
        hint="0.0 keeps what is better than its group, null keeps everything",
        help="imitate only tokens of a larger advantage; null: all",
    )


@losses.register("nll", NLLConfig)
def nll(inputs: PolicyLossInputs, config: NLLConfig) -> Loss:
    """-log pi on kept tokens, 0 on the others, which stay in the denominators.

    The advantage only decides what is kept. This is not the gradient of the reward, on-policy
    either: it imitates.
    """
    values_R = -inputs.policy_logprobs_R
    ratio_R = ratio(inputs.policy_logprobs_R, inputs.anchor_logprobs_R)
    kept_R = torch.ones_like(inputs.counted_R)
    if config.keep_above is not None:
        kept_R = inputs.advantages_R > config.keep_above
    values_R = values_R.masked_fill(~kept_R, 0.0)
    means = {"actor/kept_fraction": kept_R}
    return Loss(values_R=values_R, diagnostics_R=ratio_diagnostics(inputs, ratio_R, means))
