"""What every policy loss receives, and the registry of losses.

Owns the carrier and the shared diagnostics. Refuses to own masks, denominators
(reduce.py), the reference KL (kl.py) and off-policy corrections (corrections/). Invariant: a
loss returns one value per token and never averages over the batch, so the gradient cannot
depend on how responses were packed.

Legend: R sampled tokens of one micro-batch. Log-probs are nats in float32 or wider, with
the sampling temperature applied. A loss is ``loss(inputs, config) -> Loss``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlpost.algorithms.diagnostics import Diagnostics
from rlpost.registry import Registry

losses = Registry("loss")


@dataclass(frozen=True, kw_only=True)
class PolicyLossInputs:
    """What a policy loss may look at; all tensors have shape (R,).

    ``anchor_logprobs_R`` belong to the policy that the ratio is taken against: the sampler's
    own by default, or a recomputed proximal policy. ``rollout_logprobs_R`` are always the
    sampler's own. ``item_R`` says which tokens form one response (0, 1, .. ``num_items`` - 1); a
    response is never split over micro-batches, so per-sequence losses can rely on it. A token
    that does not count may hold any finite number: it enters no sequence mean and its weight
    is 0.
    """

    policy_logprobs_R: Tensor  # carries the gradient
    anchor_logprobs_R: Tensor
    advantages_R: Tensor
    item_R: Tensor  # int64
    num_items: int = -1  # default: as many as ``item_R`` names
    rollout_logprobs_R: Tensor = None  # type: ignore[assignment]  # default: the anchor's
    counted_R: Tensor = None  # type: ignore[assignment]  # bool; default: all
    selected_R: Tensor | None = None  # bool; for losses that treat some tokens differently
    entropy_R: Tensor | None = None  # reported when present

    def __post_init__(self) -> None:
        if self.rollout_logprobs_R is None:
            object.__setattr__(self, "rollout_logprobs_R", self.anchor_logprobs_R)
        if self.counted_R is None:
            everything_R = torch.ones_like(self.item_R, dtype=torch.bool)
            object.__setattr__(self, "counted_R", everything_R)
        if self.num_items < 0:
            count = int(self.item_R.max()) + 1 if len(self.item_R) else 0
            object.__setattr__(self, "num_items", count)


def ratio_diagnostics(
    inputs: PolicyLossInputs, ratio_R: Tensor, means: dict[str, Tensor]
) -> Diagnostics:
    """Return what every policy loss reports, and ``means`` of its own.

    ``ratio_R`` is the ratio of *tokens*, also where the loss uses another one, so that losses
    can be compared.
    """
    ratio_R = ratio_R.detach()
    kl_R = (inputs.anchor_logprobs_R - inputs.policy_logprobs_R).detach()
    means = means | {"actor/ppo_kl": kl_R, "actor/ratio/mean": ratio_R}
    if inputs.entropy_R is not None:
        means["actor/entropy"] = inputs.entropy_R.detach()
    maxima = {"actor/ratio/max": ratio_R, "actor/ratio/max_deviation": (ratio_R - 1).abs()}
    return Diagnostics(means=means, maxima=maxima)
