"""Losses with one ratio per response: GSPO and GMPO.

Both give every token of a response the same ratio g = exp(mean of log-ratios), with the
token's own share of its gradient: ``d value_t = -A g d log pi_t``. Weighed by the reducer,
whose weight is one number per response, the tokens of a response add up to the value and
the gradient of ``weight * length * (-A g)``: with ``sequence_mean`` that is the papers'
mean over responses. The share (GSPO-token of the paper) rather than the mean itself, so
that a token dropped by a correction takes its own gradient with it and nothing else's, and
advantages may differ by token.

Legend: see base.py. Masked tokens enter no mean.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlpost.algorithms.loss import Loss
from rlpost.algorithms.losses.base import PolicyLossInputs, losses, ratio_diagnostics
from rlpost.algorithms.ratio import bounded_log_ratio
from rlpost.algorithms.sequences import sequence_mean
from rlpost.bounds import number


@dataclass(kw_only=True)
class GSPOConfig:
    """Group sequence policy optimisation, arXiv 2507.18071."""

    use: ClassVar[str] = (
        "Mixture-of-experts models and long responses, where ratios of single tokens are noise; "
        "with `algorithm.reduction.aggregation=sequence_mean`."
    )
    watch: ClassVar[str] = (
        "The bounds are so tight that engine mismatch alone can clip with "
        "`algorithm.anchor=rollout`; an `actor/pg_clipfrac` of 0.1 to 0.2 is normal, unlike for "
        "clip."
    )

    kind: str = "gspo"
    clip_low: float = number(
        3e-4,
        above=0,
        below=1,
        hint="GSPO uses 3e-4",
        help="the ratio of a response is clipped below 1 minus this",
    )
    clip_high: float = number(
        4e-4,
        above=0,
        at_most=1e6,
        hint="it is the offset above 1: GSPO uses 4e-4",
        help="the ratio of a response is clipped above 1 plus this",
    )


@losses.register("gspo", GSPOConfig)
def gspo(inputs: PolicyLossInputs, config: GSPOConfig) -> Loss:
    """-min(sA, clip(s, 1 - low, 1 + high)A), s = exp(mean_t log r_t) of the response."""
    log_ratio_R = bounded_log_ratio(inputs.policy_logprobs_R, inputs.anchor_logprobs_R)
    shared_R = _shared_ratio(log_ratio_R, inputs)
    clipped_R = shared_R.clamp(1 - config.clip_low, 1 + config.clip_high)
    plain_R, bounded_R = -shared_R * inputs.advantages_R, -clipped_R * inputs.advantages_R
    means = {
        "actor/pg_clipfrac": (bounded_R > plain_R).detach(),
        "actor/sequence_ratio/mean": shared_R.detach(),
    }
    return Loss(
        values_R=torch.maximum(plain_R, bounded_R),
        diagnostics_R=ratio_diagnostics(inputs, log_ratio_R.exp(), means),
    )


@dataclass(kw_only=True)
class GMPOConfig:
    """Geometric-mean policy optimisation, arXiv 2507.20673."""

    use: ClassVar[str] = (
        "When single tokens with outlying ratios unsettle clip; with "
        "`algorithm.reduction.aggregation=sequence_mean`."
    )
    watch: ClassVar[str] = (
        "`actor/sequence_ratio/mean` should stay near 1: a response's ratio itself has no bound."
    )

    kind: str = "gmpo"
    log_clip_low: float = number(
        0.4,
        above=0,
        at_most=100,
        hint="it bounds a difference of log-probs: GMPO uses 0.4",
        help="the log-ratio of a token is clipped below minus this",
    )
    log_clip_high: float = number(
        0.4,
        above=0,
        at_most=100,
        hint="it bounds a difference of log-probs: GMPO uses 0.4",
        help="the log-ratio of a token is clipped above this",
    )


@losses.register("gmpo", GMPOConfig)
def gmpo(inputs: PolicyLossInputs, config: GMPOConfig) -> Loss:
    """-A exp(mean_t l_t), l_t the log-ratio of a token, clipped on the side that A pushes to."""
    log_ratio_R = bounded_log_ratio(inputs.policy_logprobs_R, inputs.anchor_logprobs_R)
    clipped_R = torch.where(
        inputs.advantages_R < 0,
        log_ratio_R.clamp(min=-config.log_clip_low),
        log_ratio_R.clamp(max=config.log_clip_high),
    )
    shared_R = _shared_ratio(clipped_R, inputs)
    means = {
        "actor/pg_clipfrac": (clipped_R != log_ratio_R).detach(),
        "actor/sequence_ratio/mean": shared_R.detach(),
    }
    return Loss(
        values_R=-shared_R * inputs.advantages_R,
        diagnostics_R=ratio_diagnostics(inputs, log_ratio_R.exp(), means),
    )


def _shared_ratio(log_ratio_R: Tensor, inputs: PolicyLossInputs) -> Tensor:
    """exp(mean over the response) at each token, carrying the token's own gradient."""
    mean_R = sequence_mean(log_ratio_R.detach(), item_R=inputs.item_R, counted_R=inputs.counted_R)
    return (mean_R + log_ratio_R - log_ratio_R.detach()).exp()
