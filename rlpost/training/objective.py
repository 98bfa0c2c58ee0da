"""What one optimizer step minimises, as configured: the loss and what is added to it.

Owns the assembly per token; refuses to own masks and denominators (algorithms/reduce.py).
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rlpost.algorithms.diagnostics import Diagnostics
from rlpost.algorithms.kl import KLConfig, kl_estimate, kl_penalty
from rlpost.algorithms.losses import PerToken, PolicyLossInputs, losses


@dataclass(frozen=True, kw_only=True)
class Objective:
    """``loss + kl.coefficient * KL - entropy_coefficient * H``, per response token.

    Example: ``Objective(loss=ClipConfig(clip_high=0.28), kl=KLConfig())``
    """

    loss: Any  # config dataclass of a registered loss; its ``kind`` names it
    kl: KLConfig
    entropy_coefficient: float = 0.0

    @property
    def needs_reference(self) -> bool:
        return self.kl.coefficient > 0

    def per_token(self, inputs: PolicyLossInputs, *, ref_logprobs_R: Tensor | None) -> PerToken:
        """Evaluate all terms on one micro-batch; tensors have shape (R,)."""
        result = losses.get(self.loss.kind).target(inputs, self.loss)
        values_R = result.values_R
        means = {**result.diagnostics.means, "actor/pg_loss": values_R.detach()}
        if self.needs_reference:
            assert ref_logprobs_R is not None, "the batch carries no reference log-probs"
            values_R = values_R + self.kl.coefficient * kl_penalty(
                inputs.policy_logprobs_R,
                ref_logprobs_R=ref_logprobs_R,
                rollout_logprobs_R=inputs.anchor_logprobs_R,
                config=self.kl,
            )
            means["actor/kl_loss"] = kl_estimate(
                inputs.policy_logprobs_R.detach(), ref_logprobs_R, form=self.kl.form
            )
        if self.entropy_coefficient:
            assert inputs.entropy_R is not None
            values_R = values_R - self.entropy_coefficient * inputs.entropy_R
        diagnostics = Diagnostics(
            means=means,
            maxima=result.diagnostics.maxima,
            effective_sizes=result.diagnostics.effective_sizes,
        )
        return PerToken(values_R=values_R, diagnostics=diagnostics)
