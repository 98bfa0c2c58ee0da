"""The clipped surrogate: PPO, GRPO, DAPO (clip-higher) and dual clip, by their numbers.

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
class ClipConfig:
    """Clipped surrogate: PPO arXiv 1707.06347; clip-higher 2503.14476; dual clip 1912.09729."""

    use: ClassVar[str] = (
        "The default: PPO, GRPO and DAPO by their numbers, with one update per batch or several."
    )
    watch: ClassVar[str] = (
        "`actor/pg_clipfrac` is 0 with one on-policy update, and a few percent with more; for a "
        "negative A nothing bounds the loss (`actor/ratio/max`) without `loss.dual_clip`."
    )

    kind: str = "clip"
    clip_low: float = number(
        0.2, above=0, below=1, hint="DAPO uses 0.2", help="the ratio is clipped below 1 minus this"
    )
    clip_high: float = number(
        0.2,
        above=0,
        at_most=1e6,
        hint="it is the offset above 1: DAPO uses 0.28",
        help="the ratio is clipped above 1 plus this",
    )
    dual_clip: float | None = number(
        None,
        above=1,
        at_most=1e6,
        hint="the paper uses 3.0, null turns it off",
        help="bound c of the loss for A < 0, which is then at most -cA; null: none",
    )


@losses.register("clip", ClipConfig)
def clip(inputs: PolicyLossInputs, config: ClipConfig) -> Loss:
    """-min(rA, clip(r, 1 - low, 1 + high)A), r = policy / anchor. See ClipConfig."""
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
    return Loss(values_R=values_R, diagnostics_R=ratio_diagnostics(inputs, ratio_R, means))
