"""The critic's objective, per token.

Owns the clipped regression on returns and its diagnostics. Refuses to own returns
(advantages/), masks and denominators (reduce.py). Invariant: one value per token and no
average, so the gradient cannot depend on how tokens were packed.

Legend: R sampled tokens of one micro-batch. The value of a token is read *before* it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlpost.algorithms.diagnostics import Diagnostics
from rlpost.algorithms.loss import Loss, LossBatch, Outputs
from rlpost.bounds import number


@dataclass(frozen=True, kw_only=True)
class CriticLossInputs:
    """What the critic's loss may look at; all tensors have shape (R,)."""

    values_R: Tensor  # carries the gradient
    rollout_values_R: Tensor  # the critic's own when the advantages were computed
    returns_R: Tensor


@dataclass(kw_only=True)
class CriticLossConfig:
    """Clipped value loss, as in PPO's reference code (openai/baselines)."""

    clip: float | None = number(
        0.5,
        above=0,
        at_most=1e6,
        hint="in units of the reward; 0.2 to 0.5 is usual, null turns it off",
        help="how far a value may move from its old one; null: as far as it likes",
    )


def critic_loss(inputs: CriticLossInputs, config: CriticLossConfig) -> Loss:
    """0.5 * max((V - R)^2, (clip(V, V_old +- c) - R)^2).

    A value that moved further than c *towards* its return has the larger clipped term and no
    gradient. ``critic/vf_explained_var`` is computed from the values before the update, which the
    advantages were computed from.
    """
    values_R, old_R, returns_R = inputs.values_R, inputs.rollout_values_R, inputs.returns_R
    losses_R = 0.5 * (values_R - returns_R).square()
    clipped_R = torch.zeros_like(losses_R, dtype=torch.bool)
    if config.clip is not None:
        bounded_R = torch.clamp(values_R, old_R - config.clip, old_R + config.clip)
        bounded_losses_R = 0.5 * (bounded_R - returns_R).square()
        clipped_R = bounded_losses_R > losses_R
        losses_R = torch.maximum(losses_R, bounded_losses_R)
    diagnostics = Diagnostics(
        means={
            "critic/vf_loss": losses_R.detach(),
            "critic/vf_clipfrac": clipped_R.detach(),
            "critic/vpred_mean": values_R.detach(),
        },
        explained_variances={"critic/vf_explained_var": (returns_R.detach(), old_R.detach())},
    )
    return Loss(values_R=losses_R, diagnostics_R=diagnostics)


@dataclass(frozen=True, kw_only=True)
class CriticObjective:
    """The value loss as a trainer calls it; ``rollout_values_R`` are the critic's own, earlier.

    Example: ``CriticObjective(loss=CriticLossConfig())``
    """

    loss: CriticLossConfig

    @property
    def columns(self) -> tuple[str, ...]:
        """See ``loss.Objective``."""
        return ("weight_R", "rollout_values_R", "returns_R")

    def __call__(self, outputs: Outputs, batch: LossBatch) -> Loss:
        """Evaluate one micro-batch."""
        inputs = CriticLossInputs(
            values_R=outputs.scores_R,
            rollout_values_R=batch.masked("rollout_values_R"),
            returns_R=batch.masked("returns_R"),
        )
        return critic_loss(inputs, self.loss)
