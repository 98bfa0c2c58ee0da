"""Policy losses, per token.

Owns the surrogate of each response token. Refuses to own masks, denominators (reduce.py)
and the reference KL (kl.py). Invariant: a loss returns one value per token and never
averages, so the gradient cannot depend on how tokens were packed.

Legend: R response tokens of one micro-batch. Log-probs are nats in float32 or wider, with
the sampling temperature applied. A loss is ``loss(inputs, config) -> PerToken``.

PPO, GRPO, DAPO (clip-higher) and dual-clip are all ``clip`` with different numbers.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlpost.algorithms.diagnostics import Diagnostics
from rlpost.algorithms.ratio import ratio
from rlpost.errors import UserError
from rlpost.registry import Registry

losses = Registry("loss")


@dataclass(frozen=True, kw_only=True)
class PolicyLossInputs:
    """What a policy loss may look at; all tensors have shape (R,).

    ``anchor_logprobs_R`` belong to the policy that the ratio is taken against: by default
    the sampler's own. ``sequence_R`` says which tokens form one response; a response is
    never split over micro-batches, so per-sequence losses can rely on it.
    """

    policy_logprobs_R: Tensor  # carries the gradient
    anchor_logprobs_R: Tensor
    advantages_R: Tensor
    sequence_R: Tensor  # int64
    entropy_R: Tensor | None = None  # reported when present


@dataclass(frozen=True, kw_only=True)
class PerToken:
    """A loss before any mask or denominator: ``sum(loss_weight_R * values_R)`` is the loss."""

    values_R: Tensor
    diagnostics: Diagnostics


@dataclass(kw_only=True)
class ClipConfig:
    """Clipped surrogate: PPO arXiv 1707.06347; clip-higher 2503.14476; dual clip 1912.09729."""

    kind: str = "clip"
    clip_low: float = 0.2  # the ratio is clipped to [1 - clip_low, 1 + clip_high]
    clip_high: float = 0.2  # DAPO: 0.28
    dual_clip: float | None = None  # bound c of the loss for A < 0: at most -cA; usual: 3.0

    def check(self, path: str = "loss") -> None:
        """Raises UserError: a field is out of range."""
        if not 0 < self.clip_low < 1:
            raise UserError(
                f"{path}.clip_low must be in (0, 1), got {self.clip_low}; DAPO uses 0.2"
            )
        if not 0 < self.clip_high < math.inf:
            raise UserError(
                f"{path}.clip_high must be positive, got {self.clip_high}; it is the offset "
                "above 1: DAPO uses 0.28"
            )
        if self.dual_clip is not None and not 1 < self.dual_clip < math.inf:
            raise UserError(
                f"{path}.dual_clip must be above 1, got {self.dual_clip}; the paper uses 3.0, "
                "null turns it off"
            )


@losses.register("clip", ClipConfig)
def clip(inputs: PolicyLossInputs, config: ClipConfig) -> PerToken:
    """-min(rA, clip(r, 1 - low, 1 + high)A), r = policy / anchor; see ClipConfig."""
    advantages_R = inputs.advantages_R
    ratio_R = ratio(inputs.policy_logprobs_R, inputs.anchor_logprobs_R)
    clipped_R = ratio_R.clamp(1 - config.clip_low, 1 + config.clip_high)
    plain_R, bounded_R = -ratio_R * advantages_R, -clipped_R * advantages_R
    values_R = torch.maximum(plain_R, bounded_R)
    means = {"actor/pg_clipfrac": (bounded_R > plain_R).detach()}
    if config.dual_clip is not None:
        ceiling_R = -config.dual_clip * advantages_R
        above_R = (advantages_R < 0) & (values_R > ceiling_R)
        values_R = torch.where(above_R, ceiling_R, values_R)
        means["actor/pg_clipfrac_lower"] = above_R.detach()
    return PerToken(values_R=values_R, diagnostics=_diagnostics(inputs, ratio_R, means))


@dataclass(kw_only=True)
class ReinforceConfig:
    """Plain policy gradient; unbiased only on-policy."""

    kind: str = "reinforce"

    def check(self, path: str = "loss") -> None:
        """Nothing can be out of range."""


@losses.register("reinforce", ReinforceConfig)
def reinforce(inputs: PolicyLossInputs, config: ReinforceConfig) -> PerToken:
    """-A log pi. Its gradient equals ``clip``'s where the ratio is 1; its value does not."""
    values_R = -inputs.advantages_R * inputs.policy_logprobs_R
    ratio_R = ratio(inputs.policy_logprobs_R, inputs.anchor_logprobs_R)
    return PerToken(values_R=values_R, diagnostics=_diagnostics(inputs, ratio_R, {}))


def _diagnostics(
    inputs: PolicyLossInputs, ratio_R: Tensor, means: dict[str, Tensor]
) -> Diagnostics:
    ratio_R = ratio_R.detach()
    kl_R = (inputs.anchor_logprobs_R - inputs.policy_logprobs_R).detach()
    means = means | {"actor/ppo_kl": kl_R, "actor/ratio/mean": ratio_R}
    if inputs.entropy_R is not None:
        means["actor/entropy"] = inputs.entropy_R.detach()
    maxima = {"actor/ratio/max": ratio_R, "actor/ratio/max_deviation": (ratio_R - 1).abs()}
    return Diagnostics(means=means, maxima=maxima)
