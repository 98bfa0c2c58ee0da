"""Every loss and correction once more, as plain Python about one response at a time.

Written from the papers' formulas, without torch and without our helpers. ``frozen`` is the
policy's log-prob wherever a formula stops the gradient, so that finite differences over
``policy`` alone are the gradient.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from rlpost.algorithms.losses import PolicyLossInputs
from rlpost.algorithms.reduce import ReductionConfig, loss_weights


@dataclass(frozen=True, kw_only=True)
class Token:
    policy: float
    frozen: float
    anchor: float
    rollout: float
    advantage: float
    counted: bool = True
    selected: bool = False


Response = list[Token]


def _clip(x, low, high):
    return min(max(x, low), high)


def _mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers) if numbers else 0.0


def _clip_token(t, config):
    r = math.exp(t.policy - t.anchor)
    loss = -min(r * t.advantage, _clip(r, 1 - config.clip_low, 1 + config.clip_high) * t.advantage)
    ceiling = getattr(config, "dual_clip", None)
    if ceiling is not None and t.advantage < 0:
        loss = min(loss, -ceiling * t.advantage)
    return loss


def clip(response, config):
    return [_clip_token(t, config) for t in response]


def reinforce(response, config):
    return [-t.advantage * t.policy for t in response]


def nll(response, config):
    bound = config.keep_above
    return [-t.policy if bound is None or t.advantage > bound else 0.0 for t in response]


def gspo(response, config):
    mean = _mean(t.frozen - t.anchor for t in response if t.counted)
    values = []
    for t in response:
        s = math.exp(mean) * math.exp(t.policy - t.frozen)
        clipped = _clip(s, 1 - config.clip_low, 1 + config.clip_high)
        values.append(-min(s * t.advantage, clipped * t.advantage))
    return values


def gmpo(response, config):
    def bounded(t, policy):
        sign = -1 if t.advantage < 0 else 1
        log_r = policy - t.anchor
        clipped = _clip(log_r, -config.log_clip_low, config.log_clip_high)
        return sign * min(sign * log_r, sign * clipped)

    mean = _mean(bounded(t, t.frozen) for t in response if t.counted)
    return [
        -t.advantage * math.exp(mean + bounded(t, t.policy) - bounded(t, t.frozen))
        for t in response
    ]


def cispo(response, config):
    return [
        -min(math.exp(t.frozen - t.anchor), 1 + config.clip_high) * t.advantage * t.policy
        for t in response
    ]


def aipo(response, config):
    return [
        -min(math.exp(t.frozen - t.rollout), config.max_weight) * t.advantage * t.policy
        for t in response
    ]


def dppo(response, config):
    values = []
    for t in response:
        shift = math.exp(t.frozen) - math.exp(t.rollout)
        up = t.advantage > 0 and shift > config.max_increase
        down = t.advantage < 0 and shift < -config.max_decrease
        log_q = t.policy - t.rollout
        surrogate = 0.0 if up or down else -math.exp(log_q) * t.advantage
        values.append(surrogate + config.log_ratio_penalty * log_q**2)
    return values


def sapo(response, config):
    values = []
    for t in response:
        tau = config.tau_positive if t.advantage > 0 else config.tau_negative
        r = math.exp(t.policy - t.anchor)
        values.append(-t.advantage * 4 / tau / (1 + math.exp(-tau * (r - 1))))
    return values


def clip_cov(response, config):
    return [0.0 if t.selected else _clip_token(t, config) for t in response]


def kl_cov(response, config):
    return [
        -math.exp(t.policy - t.anchor) * t.advantage
        + (config.coefficient * abs(t.policy - t.anchor) if t.selected else 0.0)
        for t in response
    ]


LOSSES = {
    function.__name__: function
    for function in (
        clip, reinforce, nll, gspo, gmpo, cispo, aipo, dppo, sapo, clip_cov, kl_cov
    )
}  # fmt: skip


def _rho(t):
    return math.exp(t.anchor - t.rollout)


def tis(response, config):
    return [_clip(_rho(t), config.low, config.high) for t in response]


def icepop(response, config):
    return [_rho(t) if config.low <= _rho(t) <= config.high else 0.0 for t in response]


def token_mask(response, config):
    return [float(config.low <= _rho(t) <= config.high) for t in response]


def sequence_mask(response, config):
    product = math.prod(_rho(t) for t in response if t.counted)
    return [float(config.low <= product <= config.high)] * len(response)


def geometric_mask(response, config):
    counted = [_rho(t) for t in response if t.counted]
    mean = math.prod(counted) ** (1 / max(1, len(counted)))
    return [float(config.low <= mean <= config.high)] * len(response)


def veto(response, config):
    dropped = any(_rho(t) < config.threshold for t in response if t.counted)
    return [float(not dropped)] * len(response)


def opsm(response, config):
    counted = [t for t in response if t.counted]
    worse = sum(t.advantage for t in counted) < 0
    far = _mean(t.rollout - t.frozen for t in counted) > config.delta
    return [float(not (worse and far))] * len(response)


CORRECTIONS = {
    function.__name__: function
    for function in (tis, icepop, token_mask, sequence_mask, geometric_mask, veto, opsm)
}

GARBAGE = -1e9  # log-prob of tokens that do not count


def random_responses(seed, *, masked=0.25, token_advantages=False, spread=0.4):
    """Draw five responses; masked tokens hold garbage, and one response is masked entirely."""
    rng = np.random.default_rng(seed)
    responses = []
    for number in range(5):
        advantage = rng.normal()
        response = []
        for _ in range(rng.integers(1, 7)):
            policy = -rng.uniform(0.05, 3)
            anchor = min(-1e-3, policy + rng.normal(scale=spread))
            rollout = min(-1e-3, anchor + rng.normal(scale=spread))
            if token_advantages:
                advantage = rng.normal()
            counted = bool(rng.random() >= masked) and not (masked and number == 3)
            response.append(
                Token(
                    policy=policy if counted else GARBAGE,
                    frozen=policy if counted else GARBAGE,
                    anchor=anchor if counted else rng.choice([anchor, GARBAGE]),
                    rollout=rollout,
                    advantage=advantage,
                    counted=counted,
                    selected=bool(rng.random() < 0.4),
                )
            )
        responses.append(response)
    return responses


def on_policy(responses):
    return [
        [replace(t, anchor=t.policy, rollout=t.policy, selected=False) for t in response]
        for response in responses
    ]


def tensors(responses, *, dtype=torch.float64):
    """Lay responses out one after the other; ``policy_logprobs_R`` is a leaf with gradient."""
    tokens = [t for response in responses for t in response]
    items = [number for number, response in enumerate(responses) for _ in response]

    def column(name, dtype=dtype):
        return torch.tensor([getattr(t, name) for t in tokens], dtype=dtype)

    return PolicyLossInputs(
        policy_logprobs_R=column("policy").requires_grad_(),
        anchor_logprobs_R=column("anchor"),
        rollout_logprobs_R=column("rollout"),
        advantages_R=column("advantage"),
        counted_R=column("counted", torch.bool),
        selected_R=column("selected", torch.bool),
        item_R=torch.tensor(items, dtype=torch.int64),
    )


def weights(responses, reduction=None):
    """The reducer's weights of the whole batch, one array per response."""
    counted = [np.array([t.counted for t in response]) for response in responses]
    lengths = [int(each.sum()) for each in counted]
    weights = loss_weights(lengths, config=reduction or ReductionConfig())
    return [np.where(each, weight, 0.0) for each, weight in zip(counted, weights, strict=True)]
