"""Every preference loss once more, as plain Python about one pair or one judged response.

Written from the papers' formulas, without torch and without our helpers. A response is its tokens'
log-probs under the policy and under the reference.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Response:
    policy: tuple[float, ...]
    ref: tuple[float, ...]

    @property
    def log_ratio(self):
        return math.fsum(self.policy) - math.fsum(self.ref)

    @property
    def mean(self):
        return math.fsum(self.policy) / len(self.policy)


@dataclass(frozen=True)
class Pair:
    chosen: Response
    rejected: Response

    @property
    def d(self):
        return self.chosen.log_ratio - self.rejected.log_ratio


@dataclass(frozen=True)
class Judged:
    response: Response
    is_good: bool
    z: float


def _minus_log_sigma(x):
    return max(-x, 0.0) + math.log1p(math.exp(-abs(x)))


def _sigma(x):
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def dpo(pair, config):
    return _minus_log_sigma(config.beta * pair.d)


rpo = dpo  # the likelihood is a term of the batch, not of the pair


def cdpo(pair, config):
    e, r = config.label_smoothing, config.beta * pair.d
    return (1 - e) * _minus_log_sigma(r) + e * _minus_log_sigma(-r)


def robust(pair, config):
    e, r = config.label_smoothing, config.beta * pair.d
    return ((1 - e) * _minus_log_sigma(r) - e * _minus_log_sigma(-r)) / (1 - 2 * e)


def ipo(pair, config):
    per_token = [each.log_ratio / len(each.policy) for each in (pair.chosen, pair.rejected)]
    return (per_token[0] - per_token[1] - 1 / (2 * config.beta)) ** 2


def hinge(pair, config):
    return max(0.0, 1 - config.beta * pair.d)


def cpo(pair, config):
    apart = math.fsum(pair.chosen.policy) - math.fsum(pair.rejected.policy)
    return _minus_log_sigma(config.beta * apart)


def simpo(pair, config):
    apart = pair.chosen.mean - pair.rejected.mean
    return _minus_log_sigma(config.beta * apart - config.gamma)


def _log_odds(log_p):
    log_p = min(log_p, -(2.0**-23))  # float32 knows no probability between this one and 1
    other = math.log(-math.expm1(log_p)) if log_p > -0.7 else math.log1p(-math.exp(log_p))
    return log_p - other


def orpo(pair, config):
    ahead = _log_odds(pair.chosen.mean) - _log_odds(pair.rejected.mean)
    return config.beta * _minus_log_sigma(ahead)


def kto(judged, config):
    ahead = config.beta * (judged.response.log_ratio - judged.z)
    if judged.is_good:
        return config.desirable_weight * (1 - _sigma(ahead))
    return config.undesirable_weight * (1 - _sigma(-ahead))


LOSSES = {
    each.__name__: each for each in (dpo, cdpo, robust, ipo, hinge, cpo, simpo, orpo, kto)
} | {"rpo": rpo}


def total(rows, config, *, kind, nll_weight):
    """The loss of an optimizer batch: a mean over rows, and a mean over all chosen tokens."""
    value = math.fsum(LOSSES[kind](row, config) for row in rows) / len(rows)
    if nll_weight:
        tokens = [token for pair in rows for token in pair.chosen.policy]
        value -= nll_weight * math.fsum(tokens) / len(tokens)
    return value
