"""What one optimizer step of the policy minimises: the loss and what is added to it.

Owns the assembly per token. Refuses to own masks and denominators (reduce.py) and each term.

Legend: R sampled tokens of one micro-batch. A unit is one trajectory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from rlpost.algorithms.corrections import correct
from rlpost.algorithms.diagnostics import Diagnostics
from rlpost.algorithms.kl import KLConfig, KLPlacement, kl_estimate, kl_penalty
from rlpost.algorithms.loss import Loss, LossBatch, Outputs
from rlpost.algorithms.losses import PolicyLossInputs, losses
from rlpost.algorithms.losses.covariance import token_selection
from rlpost.algorithms.losses.weighted import ROLLOUT_RATIO
from rlpost.algorithms.mismatch import mismatch
from rlpost.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PolicyObjective:
    """``weight * loss + kl.coefficient * KL - entropy_coefficient * H``, per sampled token.

    The weight is the product of the corrections; it does not touch KL and entropy. A KL placed
    in the reward is already in the advantages and is no term here.

    Example: ``PolicyObjective(loss=ClipConfig(clip_high=0.28), kl=KLConfig())``
    """

    loss: Any  # config dataclass of a registered loss; its ``kind`` names it
    kl: KLConfig
    entropy_coefficient: float = 0.0
    corrections: Mapping[str, Any] = field(default_factory=dict)  # configs of registered stages
    proximal: bool = False  # the ratio is taken against ``proximal_logprobs_R``

    @property
    def needs_reference(self) -> bool:
        return self.kl.needs_reference

    @property
    def columns(self) -> tuple[str, ...]:
        """See ``loss.Objective``."""
        optional = {
            "proximal_logprobs_R": self.proximal,
            "selected_R": token_selection(self.loss) is not None,
            "ref_logprobs_R": self._has_kl_term,
        }
        always = ("weight_R", "rollout_logprobs_R", "advantages_R")
        return always + tuple(name for name, needed in optional.items() if needed)

    @property
    def _has_kl_term(self) -> bool:
        return self.needs_reference and self.kl.placement is KLPlacement.loss

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

    def __call__(self, outputs: Outputs, batch: LossBatch) -> Loss:
        """Evaluate one micro-batch; also reports the mismatch with the sampler."""
        assert batch.num_items == batch.num_units, "a unit of the policy is one response"
        columns, policy_R = batch.columns, outputs.scores_R
        rollout_R = columns["rollout_logprobs_R"]
        inputs = PolicyLossInputs(
            policy_logprobs_R=policy_R,
            anchor_logprobs_R=columns["proximal_logprobs_R"] if self.proximal else rollout_R,
            rollout_logprobs_R=rollout_R,
            advantages_R=batch.masked("advantages_R"),
            item_R=batch.item_R,
            num_items=batch.num_items,
            counted_R=batch.counted_R,
            selected_R=columns.get("selected_R"),
            entropy_R=outputs.entropy_R,
        )
        result = self.per_token(inputs, ref_logprobs_R=columns.get("ref_logprobs_R"))
        measured = result.diagnostics_R | mismatch(policy_R, rollout_logprobs_R=rollout_R)
        return replace(result, diagnostics_R=measured)

    def per_token(self, inputs: PolicyLossInputs, *, ref_logprobs_R: Tensor | None) -> Loss:
        """Evaluate all terms on one micro-batch; tensors have shape (R,)."""
        result = self._policy_loss(inputs)
        values_R = result.values_R
        assert values_R is not None, "a policy loss has one value per token"
        means = {"actor/pg_loss": values_R.detach()}
        if self._has_kl_term:
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
        measured = result.diagnostics_R | Diagnostics(means=means)
        return replace(result, values_R=values_R, diagnostics_R=measured)

    def _policy_loss(self, inputs: PolicyLossInputs) -> Loss:
        """The registered loss, weighed by the corrections."""
        loss: Loss = losses.get(self.loss.kind).target(inputs, self.loss)
        if not self.corrections:
            return loss
        correction = correct(inputs, self.corrections.values())
        assert loss.values_R is not None, "a policy loss has one value per token"
        return Loss(
            values_R=correction.weight_R * loss.values_R,
            diagnostics_R=loss.diagnostics_R | correction.diagnostics,
            diagnostics_U=correction.diagnostics_I,
        )
