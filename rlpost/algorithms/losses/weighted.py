"""Losses that weigh or gate each token instead of clipping it: CISPO, AIPO, DPPO, SAPO.

AIPO and DPPO take their ratio against the sampler whatever the anchor is, so they correct
for the sampler's own error themselves.

Legend: see base.py.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from rlpost.algorithms.loss import Loss
from rlpost.algorithms.losses.base import PolicyLossInputs, losses, ratio_diagnostics
from rlpost.algorithms.ratio import bounded_log_ratio, ratio
from rlpost.bounds import number


@dataclass(kw_only=True)
class CISPOConfig:
    """Clipped importance-sampling weights, arXiv 2506.13585."""

    use: ClassVar[str] = (
        "Long reasoning, or several updates per batch: rare tokens, which clip would cut off, "
        "keep their gradient."
    )
    watch: ClassVar[str] = (
        "The weight is bounded but never stops a token from moving on (`actor/ppo_kl`); "
        "`loss.clip_high` is an offset above 1, not the bound."
    )

    kind: str = "cispo"
    clip_high: float = number(
        4.0,
        above=0,
        at_most=1e6,
        hint="it is the offset above 1: 4.0 bounds the weight at 5 (in TRL: epsilon_high=5.0)",
        help="the weight of a token is at most 1 plus this",
    )


@losses.register("cispo", CISPOConfig)
def cispo(inputs: PolicyLossInputs, config: CISPOConfig) -> Loss:
    """-sg(min(r, 1 + high)) A log pi: a bounded weight, so that no token loses its gradient."""
    ratio_R = ratio(inputs.policy_logprobs_R, inputs.anchor_logprobs_R).detach()
    weight_R = ratio_R.clamp(max=1 + config.clip_high)
    values_R = -weight_R * inputs.advantages_R * inputs.policy_logprobs_R
    means = {"actor/pg_clipfrac": weight_R < ratio_R}
    return Loss(values_R=values_R, diagnostics_R=ratio_diagnostics(inputs, ratio_R, means))


@dataclass(kw_only=True)
class AIPOConfig:
    """Asynchronous importance-weighted policy optimisation, LlamaRL, arXiv 2505.24034."""

    use: ClassVar[str] = (
        "Asynchronous training: one weight corrects for staleness and engine mismatch."
    )
    watch: ClassVar[str] = (
        "A growing `actor/pg_clipfrac` or a small `rollout_corr/rollout_is_eff_sample_size` says "
        "that samples are too stale."
    )

    kind: str = "aipo"
    max_weight: float = number(
        4.0,
        at_least=1,
        at_most=1e6,
        hint="it bounds the ratio itself: LlamaRL uses 2 to 10",
        help="bound of the ratio itself; the paper: 2 to 10",
    )


@losses.register("aipo", AIPOConfig)
def aipo(inputs: PolicyLossInputs, config: AIPOConfig) -> Loss:
    """-sg(min(q, c)) A log pi, q = policy / rollout, c = max_weight."""
    importance_R = ratio(inputs.policy_logprobs_R, inputs.rollout_logprobs_R).detach()
    weight_R = importance_R.clamp(max=config.max_weight)
    values_R = -weight_R * inputs.advantages_R * inputs.policy_logprobs_R
    ratio_R = ratio(inputs.policy_logprobs_R, inputs.anchor_logprobs_R)
    means = {"actor/pg_clipfrac": weight_R < importance_R}
    return Loss(values_R=values_R, diagnostics_R=ratio_diagnostics(inputs, ratio_R, means))


@dataclass(kw_only=True)
class DPPOConfig:
    """Divergence proximal policy optimisation, binary total variation, arXiv 2602.04879."""

    use: ClassVar[str] = (
        "Large vocabularies, where clip holds back rare tokens whose probability hardly moves."
    )
    watch: ClassVar[str] = (
        "`actor/pg_clipfrac` is the share of masked tokens; on rare tokens q has no bound "
        "(`actor/ratio/max`), only `loss.log_ratio_penalty`."
    )

    kind: str = "dppo"
    max_increase: float = number(
        0.2,
        above=0,
        at_most=1,
        hint="it is a difference of probabilities, usually 0.2",
        help="rise of a token's probability beyond which A > 0 has no gradient",
    )
    max_decrease: float = number(
        0.2,
        above=0,
        at_most=1,
        hint="it is a difference of probabilities, usually 0.2",
        help="fall of a token's probability beyond which A < 0 has no gradient",
    )
    log_ratio_penalty: float = number(
        1e-3,
        at_least=0,
        at_most=1e6,
        hint="1e-3 is usual",
        help="weight of the squared log-ratio; 0: none",
    )


@losses.register("dppo", DPPOConfig)
def dppo(inputs: PolicyLossInputs, config: DPPOConfig) -> Loss:
    """-qA while the token's probability is near the sampler's, plus penalty * (log q)^2.

    q = policy / rollout. The mask looks at pi - pi_rollout, so rare tokens, whose ratio is
    noise, stay; it takes away only steps that lead further out. The penalty has no mask.
    """
    advantages_R = inputs.advantages_R
    log_importance_R = bounded_log_ratio(inputs.policy_logprobs_R, inputs.rollout_logprobs_R)
    shift_R = (inputs.policy_logprobs_R.exp() - inputs.rollout_logprobs_R.exp()).detach()
    out_R = torch.where(
        advantages_R > 0,
        shift_R > config.max_increase,
        (advantages_R < 0) & (shift_R < -config.max_decrease),
    )
    surrogate_R = (-log_importance_R.exp() * advantages_R).masked_fill(out_R, 0.0)
    ratio_R = ratio(inputs.policy_logprobs_R, inputs.anchor_logprobs_R)
    return Loss(
        values_R=surrogate_R + config.log_ratio_penalty * log_importance_R.square(),
        diagnostics_R=ratio_diagnostics(inputs, ratio_R, {"actor/pg_clipfrac": out_R}),
    )


# Their weight already holds pi_anchor / pi_rollout: a correction that multiplies by it again
# would count it twice.
ROLLOUT_RATIO = (AIPOConfig, DPPOConfig)


@dataclass(kw_only=True)
class SAPOConfig:
    """Soft adaptive policy optimisation, arXiv 2511.20347."""

    use: ClassVar[str] = (
        "When hard clipping makes training jumpy: the gradient fades as the ratio leaves 1."
    )
    watch: ClassVar[str] = (
        "`actor/gate_slope` is 1 on-policy and falls as tokens leave; unlike clip it also damps "
        "the steps that lead back."
    )

    kind: str = "sapo"
    tau_positive: float = number(
        1.0, above=0, at_most=1000, hint="SAPO uses 1.0", help="sharpness of the gate for A > 0"
    )
    tau_negative: float = number(
        1.05,
        above=0,
        at_most=1000,
        hint="SAPO uses 1.05",
        help="sharpness of the gate for the others, whose tokens are less stable",
    )


@losses.register("sapo", SAPOConfig)
def sapo(inputs: PolicyLossInputs, config: SAPOConfig) -> Loss:
    """-A f(r), f(r) = sigmoid(tau (r - 1)) * 4 / tau: slope 1 at r = 1, smoothly less beyond."""
    ratio_R = ratio(inputs.policy_logprobs_R, inputs.anchor_logprobs_R)
    tau_R = torch.full_like(ratio_R, config.tau_negative, requires_grad=False).masked_fill(
        inputs.advantages_R > 0, config.tau_positive
    )
    gate_R = (tau_R * (ratio_R - 1)).sigmoid()
    means = {"actor/gate_slope": (4 * gate_R * (1 - gate_R)).detach()}
    return Loss(
        values_R=-inputs.advantages_R * gate_R * 4 / tau_R,
        diagnostics_R=ratio_diagnostics(inputs, ratio_R, means),
    )
