"""The penalty for leaving the reference policy, per token.

Owns the three estimators of KL(policy || reference) from one sampled token
(http://joschu.net/blog/kl-approx.html) and what their *gradients* are. Refuses to own
masks, denominators and the forward pass of the reference.

With l = log pi - log pi_ref: k1 = l, k2 = l^2 / 2, k3 = exp(-l) - 1 + l. With
q = pi / pi_rollout, the expected gradient when the penalty is used as a loss is:

============  ==================  ====================  =======================
importance    k1                  k2                    k3
============  ==================  ====================  =======================
none          0 on-policy         KL(pi || ref) on-     KL(ref || pi) on-
              (useless)           policy, else biased   policy, else biased
stopped       0 always (useless)  KL(pi || ref)         KL(ref || pi)
flowing       KL(pi || ref)       neither               KL(pi || ref)
============  ==================  ====================  =======================

``stopped`` multiplies by sg(q), ``flowing`` by q with its gradient (arXiv 2512.02556).
The tests check every cell of the table by exact expectation. Hazards: k1 is negative on
many tokens and k3's exp(-l) is large where the policy abandons a token the reference
likes; l is bounded to +-20 there.

In the *reward* the estimate is a number without a gradient, and what acts is
``E[estimate * grad log pi]``. For k1 that is the gradient of KL(pi || ref), exactly. For k3
it is grad KL(pi || ref) - grad KL(ref || pi), and for k2 grad E[k2] - grad KL(pi || ref):
both vanish to first order where the policy is close to the reference, so they hardly hold the
policy back.
"""

from dataclasses import dataclass, field
from enum import Enum

from torch import Tensor

from rlpost.algorithms.kl_controller import AdaptiveKLConfig
from rlpost.algorithms.ratio import bounded_log_ratio, ratio
from rlpost.bounds import number, option
from rlpost.errors import UserError


class KLForm(Enum):
    """Which estimator of KL(policy || reference)."""

    k1 = "k1"
    k2 = "k2"
    k3 = "k3"


class KLImportance(Enum):
    """How the penalty is weighted when tokens were sampled by another policy."""

    none = "none"
    stopped = "stopped"
    flowing = "flowing"


class KLPlacement(Enum):
    """Where the penalty enters: as a term of the loss, or subtracted from each token's reward."""

    loss = "loss"
    reward = "reward"


@dataclass(kw_only=True)
class KLConfig:
    """Penalty for leaving the reference; off by default, as is usual for verifiable rewards."""

    coefficient: float = number(
        0.0,
        at_least=0,
        at_most=1000,
        hint="GRPO's paper uses 0.04, most reasoning recipes 0",
        help="weight of the penalty; 0 needs no reference model",
    )
    placement: KLPlacement = option(
        KLPlacement.loss,
        help="where the penalty goes; reward: for estimators of tokens, with form=k1",
    )
    form: KLForm = option(KLForm.k3, help="estimator of the divergence (Schulman's k1, k2, k3)")
    importance: KLImportance = option(
        KLImportance.none, help="how the penalty is weighted when another policy sampled the tokens"
    )
    adaptive: AdaptiveKLConfig = field(default_factory=AdaptiveKLConfig)

    @property
    def needs_reference(self) -> bool:
        return self.coefficient > 0

    def check(self, path: str) -> None:
        """Raises UserError: the pair has no useful gradient, or a field no effect."""
        if self.adaptive.enabled and self.coefficient == 0:
            raise UserError(
                f"{path}.coefficient must be positive with {path}.adaptive.enabled=true, got 0: "
                "it is multiplied at each step, so it would stay 0; start at 0.05"
            )
        if self.placement is KLPlacement.reward:
            self._check_in_reward(path)
        else:
            self._check_in_loss(path)

    def _check_in_reward(self, path: str) -> None:
        if self.form is not KLForm.k1:
            raise UserError(
                f"{path}.form={self.form.value} with {path}.placement=reward has no gradient "
                f"to speak of close to the reference; use {path}.form=k1, or placement=loss"
            )
        if self.importance is not KLImportance.none:
            raise UserError(
                f"{path}.importance={self.importance.value} has no effect with "
                f"{path}.placement=reward: the policy loss weighs the whole advantage; use none"
            )

    def _check_in_loss(self, path: str) -> None:
        if self.adaptive.enabled:
            raise UserError(
                f"{path}.adaptive.enabled=true has no effect with {path}.placement=loss, whose "
                f"coefficient is fixed; use {path}.placement=reward with {path}.form=k1"
            )
        if self.form is KLForm.k1 and self.importance is not KLImportance.flowing:
            raise UserError(
                f"{path}.form=k1 has an expected gradient of 0 as a loss with "
                f"{path}.importance={self.importance.value}; use k2, k3, or importance=flowing"
            )
        if self.form is KLForm.k2 and self.importance is KLImportance.flowing:
            raise UserError(
                f"{path}.importance=flowing with {path}.form=k2 is the gradient of no KL "
                "divergence; use importance=stopped, or form=k3"
            )


def kl_estimate(policy_logprobs_R: Tensor, ref_logprobs_R: Tensor, *, form: KLForm) -> Tensor:
    """Estimate KL(policy || reference) at each token (R,), in nats, from the policy's sample.

    Averages over tokens sampled by the policy: k1 and k3 are unbiased *values*, k2 is not.
    """
    log_ratio_R = policy_logprobs_R - ref_logprobs_R
    if form is KLForm.k1:
        return log_ratio_R
    if form is KLForm.k2:
        return 0.5 * log_ratio_R.square()
    bounded_R = bounded_log_ratio(policy_logprobs_R, ref_logprobs_R)
    return (-bounded_R).exp() - 1 + bounded_R


def kl_penalty(
    policy_logprobs_R: Tensor,
    *,
    ref_logprobs_R: Tensor,
    rollout_logprobs_R: Tensor,
    config: KLConfig,
) -> Tensor:
    """Return the per-token KL loss (R,) *without* the coefficient; see the module's table."""
    estimate_R = kl_estimate(policy_logprobs_R, ref_logprobs_R, form=config.form)
    if config.importance is KLImportance.none:
        return estimate_R
    weight_R = ratio(policy_logprobs_R, rollout_logprobs_R)
    if config.importance is KLImportance.stopped:
        weight_R = weight_R.detach()
    return weight_R * estimate_R


def kl_token_rewards(
    policy_logprobs: Tensor,
    ref_logprobs: Tensor,
    *,
    coefficient: float,
    form: KLForm = KLForm.k1,
) -> Tensor:
    """Return what each token's reward loses: ``-coefficient * estimate``, without a gradient.

    Any shape; padding (NaN) stays NaN. The policy is the one that sampled the tokens. Only k1 acts
    as the KL divergence in a reward: see the module docstring.
    """
    estimate = kl_estimate(policy_logprobs.detach(), ref_logprobs.detach(), form=form)
    return -coefficient * estimate
