"""Corrections that keep or drop whole responses.

Masked tokens do not count in the decision. Legend: see base.py.
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
from rlpost.algorithms.losses.base import PolicyLossInputs
from rlpost.algorithms.ratio import bounded_log_ratio
from rlpost.algorithms.sequences import sequence_any, sequence_mean, sequence_sum
from rlpost.bounds import number


@dataclass(kw_only=True)
class SequenceMaskConfig(CorrectionConfig):
    """Rejection by the ratio of the whole response, https://richardli.xyz/rl-collapse.

    The ratio is a product over tokens, so its spread grows with length and long responses are
    dropped first. ``geometric_mask`` does not have this bias.
    """

    use: ClassVar[str] = "Short responses that must come from nearly the same policy as a whole."
    watch: ClassVar[str] = (
        "The longer a response, the likelier it is dropped: compare "
        "`rollout_corr/masked_sequence_fraction` with `response_length/mean`."
    )

    kind: str = "sequence_mask"
    low: float = number(
        0.5,
        above=0,
        below=1,
        hint="start at 0.5 and 2.0",
        help="drop a response whose ratio is below this",
    )
    high: float = number(
        2.0,
        above=1,
        at_most=1e6,
        hint="start at 0.5 and 2.0",
        help="drop a response whose ratio is above this",
    )


@corrections.register("sequence_mask", SequenceMaskConfig)
def sequence_mask(inputs: PolicyLossInputs, config: SequenceMaskConfig) -> Correction:
    """Keep the response iff low <= prod_t rho_t <= high."""
    log_rho_R = log_rho(inputs)
    total_R = sequence_sum(log_rho_R, item_R=inputs.item_R, counted_R=inputs.counted_R)
    kept_R = (total_R >= math.log(config.low)) & (total_R <= math.log(config.high))
    return mask("sequence_mask", kept_R, log_rho_R)


@dataclass(kw_only=True)
class GeometricMaskConfig(CorrectionConfig):
    """Rejection by the geometric mean of a response's ratios, https://richardli.xyz/rl-collapse."""

    use: ClassVar[str] = (
        "Long responses that differ a little at every token; first measure your mismatch."
    )
    watch: ClassVar[str] = (
        "Opposite deviations cancel (add veto), and a width of 1 % is tight: tune it by "
        "`rollout_corr/masked_sequence_fraction`."
    )

    kind: str = "geometric_mask"
    low: float = number(
        0.99,
        above=0,
        below=1,
        hint="start at 0.99 and 1.01",
        help="drop a response whose mean ratio is below this; tune to your engines' mismatch",
    )
    high: float = number(
        1.01,
        above=1,
        at_most=1e6,
        hint="start at 0.99 and 1.01",
        help="drop a response whose mean ratio is above this; tune to your engines' mismatch",
    )


@corrections.register("geometric_mask", GeometricMaskConfig)
def geometric_mask(inputs: PolicyLossInputs, config: GeometricMaskConfig) -> Correction:
    """Keep the response iff low <= exp(mean_t log rho_t) <= high."""
    log_rho_R = log_rho(inputs)
    mean_R = sequence_mean(log_rho_R, item_R=inputs.item_R, counted_R=inputs.counted_R)
    kept_R = (mean_R >= math.log(config.low)) & (mean_R <= math.log(config.high))
    return mask("geometric_mask", kept_R, log_rho_R)


@dataclass(kw_only=True)
class VetoConfig(CorrectionConfig):
    """One token that the anchor would hardly have sampled drops the whole response.

    verl's ``rollout_token_veto_threshold``,
    https://verl.readthedocs.io/en/latest/algo/rollout_corr.html.
    """

    use: ClassVar[str] = "Beside another correction, against responses with a corrupt token."
    watch: ClassVar[str] = (
        "If `correction/veto/masked_fraction` is more than rare, look for a fault (temperature, "
        "tokenizer, push) rather than at the threshold."
    )

    kind: str = "veto"
    threshold: float = number(
        1e-4,
        above=3e-9,
        below=1,
        hint="smaller ratios are not told apart; 1e-4 is usual",
        help="drop a response if one of its tokens has a smaller ratio",
    )


@corrections.register("veto", VetoConfig)
def veto(inputs: PolicyLossInputs, config: VetoConfig) -> Correction:
    """Drop the response iff any rho_t < threshold."""
    log_rho_R = log_rho(inputs)
    vetoed_R = sequence_any(
        log_rho_R < math.log(config.threshold),
        item_R=inputs.item_R,
        counted_R=inputs.counted_R,
    )
    return mask("veto", ~vetoed_R, log_rho_R)


@dataclass(kw_only=True)
class OPSMConfig(CorrectionConfig):
    """Off-policy sequence masking, DeepSeek-V3.2, arXiv 2512.02556.

    Compares the *current* policy with the sampler, so it works with any anchor; in the first
    on-policy update it drops nothing.
    """

    needs_proximal: ClassVar[bool] = False
    use: ClassVar[str] = (
        "Several updates per batch or stale samples: leaves out failures that the policy would "
        "hardly sample any more."
    )
    watch: ClassVar[str] = (
        "The paper gives no `algorithm.corrections.opsm.delta`, so tune it by "
        "`correction/opsm/masked_fraction`; only failures are dropped."
    )

    kind: str = "opsm"
    delta: float = number(
        0.1,
        above=0,
        at_most=100,
        hint="it is a mean of log-ratios: start at 0.1 nats per token",
        help="nats per token of drift above which a response with A < 0 is dropped",
    )


@corrections.register("opsm", OPSMConfig)
def opsm(inputs: PolicyLossInputs, config: OPSMConfig) -> Correction:
    """Drop the response iff its mean A < 0 and mean_t(log rollout - log policy) > delta."""
    where = {"item_R": inputs.item_R, "counted_R": inputs.counted_R}
    drift_R = -bounded_log_ratio(inputs.policy_logprobs_R.detach(), inputs.rollout_logprobs_R)
    far_R = sequence_mean(drift_R, **where) > config.delta
    worse_R = sequence_mean(inputs.advantages_R, **where) < 0
    return mask("opsm", ~(worse_R & far_R), drift_R)
