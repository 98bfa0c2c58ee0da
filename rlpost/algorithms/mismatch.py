"""How far the trainer's log-probs are from the sampler's on the same tokens.

Owns the rollout-correction metrics (verl's names). Refuses to own the corrections
themselves. In synchronous training both sides hold the same weights, so anything but
rounding here is a fault: a stale head, a wrong temperature, a broken push.

Legend: R sampled tokens of one micro-batch, sampled by the rollout policy.
"""

from torch import Tensor

from rlpost.algorithms.diagnostics import Diagnostics
from rlpost.algorithms.ratio import bounded_log_ratio


def mismatch(policy_logprobs_R: Tensor, *, rollout_logprobs_R: Tensor) -> Diagnostics:
    """Compare the two log-probs (R,), nats, of each sampled token.

    With rho = policy / rollout: ``rollout_corr/kl`` is mean(-log rho) and
    ``rollout_corr/k3_kl`` is mean(rho - 1 - log rho), both estimates of
    KL(rollout || policy); ``rollout_is_mean`` is mean(rho), 1 in expectation;
    ``rollout_is_eff_sample_size`` is mean(rho)^2 / mean(rho^2), in (0, 1];
    ``rollout_probs_diff`` is the difference of probabilities, not of logs.
    """
    policy_R, rollout_R = policy_logprobs_R.detach(), rollout_logprobs_R.detach()
    log_rho_R = bounded_log_ratio(policy_R, rollout_R)
    rho_R = log_rho_R.exp()
    difference_R = (policy_R.exp() - rollout_R.exp()).abs()
    return Diagnostics(
        means={
            "rollout_corr/kl": -log_rho_R,
            "rollout_corr/k3_kl": rho_R - 1 - log_rho_R,
            "rollout_corr/rollout_is_mean": rho_R,
            "training/rollout_probs_diff_mean": difference_R,
        },
        maxima={"training/rollout_probs_diff_max": difference_R},
        effective_sizes={"rollout_corr/rollout_is_eff_sample_size": rho_R},
    )
