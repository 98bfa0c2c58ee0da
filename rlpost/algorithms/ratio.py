"""Probability ratios that cannot overflow.

Owns the one place where a difference of log-probs is exponentiated. Legend: R response
tokens.
"""

from torch import Tensor

# exp() of a larger log-ratio says nothing and overflows float32 at 88. Beyond the bound the
# gradient is 0.
LOG_RATIO_BOUND = 20.0


def bounded_log_ratio(logprobs_R: Tensor, base_logprobs_R: Tensor) -> Tensor:
    """Return log(p / p_base) per token (R,), within +-LOG_RATIO_BOUND."""
    return (logprobs_R - base_logprobs_R).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)


def ratio(logprobs_R: Tensor, base_logprobs_R: Tensor) -> Tensor:
    """Return p / p_base per token (R,) with its gradient."""
    return bounded_log_ratio(logprobs_R, base_logprobs_R).exp()
