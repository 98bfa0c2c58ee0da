"""What one optimizer step minimises, as configured: the loss and what is added to it.

Owns the assembly per token; refuses to own masks and denominators (algorithms/reduce.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from rlpost.algorithms.corrections import correct
from rlpost.algorithms.diagnostics import Diagnostics
from rlpost.algorithms.kl import KLConfig, KLPlacement, kl_estimate, kl_penalty
from rlpost.algorithms.losses import PerToken, PolicyLossInputs, losses
from rlpost.algorithms.losses.weighted import ROLLOUT_RATIO
from rlpost.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Objective:
    """``weight * loss + kl.coefficient * KL - entropy_coefficient * H``, per response token.

    The weight is the product of the corrections; it does not touch KL and entropy. A KL placed
    in the reward is already in the advantages and is no term here.

    Example: ``Objective(loss=ClipConfig(clip_high=0.28), kl=KLConfig())``
    """

    loss: Any  # config dataclass of a registered loss; its ``kind`` names it
    kl: KLConfig
    entropy_coefficient: float = 0.0
    corrections: Mapping[str, Any] = field(default_factory=dict)  # configs of registered stages

    @property
    def needs_reference(self) -> bool:
        return self.kl.needs_reference

    def check(self, path: str = "corrections") -> None:
        """Raises UserError: a correction contradicts another or the loss."""
        seen: dict[str, str] = {}
        for name, config in self.corrections.items():
            if config.kind in seen:
                raise UserError(
                    f"{path}.{name}.kind={config.kind} is already used by {path}."
                    f"{seen[config.kind]}; a stage applies once: remove one of them"
                )
            seen[config.kind] = name
            if config.weighs and isinstance(self.loss, ROLLOUT_RATIO):
                raise UserError(
                    f"{path}.{name}.kind={config.kind} with loss={self.loss.kind} would count "
                    "the sampler's error twice: this loss takes its ratio against the sampler; "
                    f"remove {path}.{name}, or use loss=cispo or loss=clip"
                )

    def per_token(self, inputs: PolicyLossInputs, *, ref_logprobs_R: Tensor | None) -> PerToken:
        """Evaluate all terms on one micro-batch; tensors have shape (R,)."""
        result = self._policy_loss(inputs)
        values_R = result.values_R
        means = {**result.diagnostics.means, "actor/pg_loss": values_R.detach()}
        if self.needs_reference and self.kl.placement is KLPlacement.loss:
            assert ref_logprobs_R is not None, "the batch carries no reference log-probs"
            values_R = values_R + self.kl.coefficient * kl_penalty(
                inputs.policy_logprobs_R,
                ref_logprobs_R=ref_logprobs_R,
                rollout_logprobs_R=inputs.rollout_logprobs_R,
                config=self.kl,
            )
            means["actor/kl_loss"] = kl_estimate(
                inputs.policy_logprobs_R.detach(), ref_logprobs_R, form=self.kl.form
            )
        if self.entropy_coefficient:
            assert inputs.entropy_R is not None
            values_R = values_R - self.entropy_coefficient * inputs.entropy_R
        return replace(
            result, values_R=values_R, diagnostics=replace(result.diagnostics, means=means)
        )

    def _policy_loss(self, inputs: PolicyLossInputs) -> PerToken:
        """The registered loss, weighed by the corrections."""
        loss = losses.get(self.loss.kind).target(inputs, self.loss)
        if not self.corrections:
            return loss
        correction = correct(inputs, self.corrections.values())
        theirs, ours = correction.diagnostics, loss.diagnostics
        return PerToken(
            values_R=correction.weight_R * loss.values_R,
            diagnostics=Diagnostics(
                means={**ours.means, **theirs.means},
                maxima={**ours.maxima, **theirs.maxima},
                effective_sizes={**ours.effective_sizes, **theirs.effective_sizes},
            ),
            sequence_diagnostics=correction.sequence_diagnostics,
        )
