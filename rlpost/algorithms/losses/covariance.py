"""Clip-Cov and KL-Cov: hold back the few tokens that make entropy collapse, arXiv 2505.22617.

Those tokens have a large product ``(log pi - mean)(A - mean)``. Owns the losses and the
choice of the tokens. The choice needs means and ranks over the *whole* optimizer batch, so
the driver makes it once, before the batch is split, and it travels as ``selected_R``.

Deliberately different from the paper, which uses the current policy's log-probs of one
mini-batch: we use the sampler's of the optimizer batch. The choice then does not depend on
the split, and needs no forward pass; on-policy the two agree.

Legend: see base.py. S sequences (responses) of the optimizer batch; the choice is numpy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from rlpost.algorithms.loss import Loss
from rlpost.algorithms.losses.base import PolicyLossInputs, losses, ratio_diagnostics
from rlpost.algorithms.losses.clipped import ClipConfig, clip
from rlpost.algorithms.ratio import bounded_log_ratio
from rlpost.bounds import number
from rlpost.errors import UserError
from rlpost.registry import Registry

# loss name -> select(advantages, *, rollout_logprobs, config, seed) -> one bool array each
selectors = Registry("token selection")


def token_selection(config: Any) -> Callable[..., list[np.ndarray]] | None:
    """Return how the tokens of a loss are chosen; None if it looks at all tokens alike.

    Example::

        select = token_selection(cfg.loss)
        selected = select(advantages, rollout_logprobs=logprobs, config=cfg.loss, seed=step)
    """
    names = {entry.name for entry in selectors}
    return selectors.get(config.kind).target if config.kind in names else None


@dataclass(kw_only=True)
class ClipCovConfig:
    """Clip-Cov, arXiv 2505.22617: chosen tokens have no gradient, others are clipped as usual."""

    needs_selection: ClassVar[bool] = True
    use: ClassVar[str] = (
        "When `actor/entropy` collapses under clip: a few of the tokens that cause it get no "
        "gradient."
    )
    watch: ClassVar[str] = (
        "An `actor/selected_fraction` of 0 says that no token's product lies between the bounds, "
        "and this is plain clip."
    )

    kind: str = "clip_cov"
    fraction: float = number(
        2e-4,
        above=0,
        below=1,
        hint="the paper uses 2e-4",
        help="share of all tokens that lose their gradient; at least one, if any qualifies",
    )
    covariance_low: float = number(
        1.0,
        above=0,
        at_most=1e6,
        hint="the paper uses 1.0",
        help="they are drawn from the tokens whose product is above this",
    )
    covariance_high: float = number(
        5.0,
        above=0,
        at_most=1e6,
        hint="the paper uses 5.0",
        help="and from the tokens whose product is below this",
    )
    clip_low: float = number(
        0.2,
        above=0,
        below=1,
        hint="DAPO uses 0.2",
        help="as in loss=clip: the authors' runs keep it",
    )
    clip_high: float = number(
        0.2,
        above=0,
        at_most=1e6,
        hint="it is the offset above 1: DAPO uses 0.28",
        help="as in loss=clip: the authors' runs keep it",
    )

    def check(self, path: str) -> None:
        """Raises UserError: no token's product lies between the bounds."""
        if self.covariance_low >= self.covariance_high:
            raise UserError(
                f"{path}.covariance_low must be below {path}.covariance_high="
                f"{self.covariance_high}, got {self.covariance_low}; the paper uses 1.0 and 5.0"
            )


@losses.register("clip_cov", ClipCovConfig)
def clip_cov(inputs: PolicyLossInputs, config: ClipCovConfig) -> Loss:
    """``clip``, and 0 where ``selected_R``."""
    assert inputs.selected_R is not None, "the batch carries no token selection"
    result = clip(inputs, ClipConfig(clip_low=config.clip_low, clip_high=config.clip_high))
    means = {**result.diagnostics_R.means, "actor/selected_fraction": inputs.selected_R}
    return Loss(
        values_R=result.values_R.masked_fill(inputs.selected_R, 0.0),
        diagnostics_R=replace(result.diagnostics_R, means=means),
    )


@selectors.register("clip_cov", ClipCovConfig)
def select_clip_cov(
    advantages: Sequence[np.ndarray],
    *,
    rollout_logprobs: Sequence[np.ndarray],
    config: ClipCovConfig,
    seed: int,
) -> list[np.ndarray]:
    """Draw ``fraction`` of the tokens from those whose product is between the bounds.

    Args:
        advantages: one array of token advantages per sequence; NaN means "not trained on".
        rollout_logprobs: the sampler's, nats, in the same shape.
        config: see ClipCovConfig.
        seed: with a token's place in the lists it fixes the token's draw.

    Returns:
        One bool array per sequence. Fewer than the fraction if fewer qualify.
    """
    product, num_counted = _products(advantages, rollout_logprobs)
    with np.errstate(invalid="ignore"):
        inside = (product > config.covariance_low) & (product < config.covariance_high)
    draws = [np.random.default_rng([seed, s]).random(len(a)) for s, a in enumerate(advantages)]
    order = np.argsort(np.concatenate([np.empty(0), *draws]), kind="stable")
    chosen = order[inside[order]][: _quota(config.fraction, num_counted)]
    return _split(chosen, advantages)


@dataclass(kw_only=True)
class KLCovConfig:
    """KL-Cov, arXiv 2505.22617: chosen tokens get a penalty on |log r|; nothing is clipped."""

    needs_selection: ClassVar[bool] = True
    use: ClassVar[str] = (
        "Against the same collapse, but softer: a penalty on the tokens that cause it."
    )
    watch: ClassVar[str] = (
        "Nothing is clipped, so with several updates per batch watch `actor/ratio/max` and "
        "`actor/ppo_kl`."
    )

    kind: str = "kl_cov"
    fraction: float = number(
        2e-3,
        above=0,
        below=1,
        hint="the paper uses 2e-3",
        help="share of all tokens that pay, those of the largest product; at least one",
    )
    coefficient: float = number(
        1.0,
        above=0,
        at_most=1e6,
        hint="the paper uses 1.0",
        help="weight of |log r| at these tokens",
    )


@losses.register("kl_cov", KLCovConfig)
def kl_cov(inputs: PolicyLossInputs, config: KLCovConfig) -> Loss:
    """-rA, and + coefficient * |log r| where ``selected_R``."""
    assert inputs.selected_R is not None, "the batch carries no token selection"
    log_ratio_R = bounded_log_ratio(inputs.policy_logprobs_R, inputs.anchor_logprobs_R)
    ratio_R = log_ratio_R.exp()
    penalty_R = torch.where(
        inputs.selected_R, config.coefficient * log_ratio_R.abs(), torch.zeros_like(log_ratio_R)
    )
    means = {"actor/selected_fraction": inputs.selected_R}
    return Loss(
        values_R=penalty_R - ratio_R * inputs.advantages_R,
        diagnostics_R=ratio_diagnostics(inputs, ratio_R, means),
    )


@selectors.register("kl_cov", KLCovConfig)
def select_kl_cov(
    advantages: Sequence[np.ndarray],
    *,
    rollout_logprobs: Sequence[np.ndarray],
    config: KLCovConfig,
    seed: int,
) -> list[np.ndarray]:
    """Choose the ``fraction`` of tokens with the largest product; ties go to the earlier token.

    Arguments and result are those of ``select_clip_cov``; nothing is drawn.
    """
    product, num_counted = _products(advantages, rollout_logprobs)
    order = np.argsort(-product, kind="stable")  # NaN goes last
    return _split(order[: _quota(config.fraction, num_counted)], advantages)


def _products(
    advantages: Sequence[np.ndarray], rollout_logprobs: Sequence[np.ndarray]
) -> tuple[np.ndarray, int]:
    """(log pi - mean)(A - mean) of all tokens in one array, NaN where not counted; their count."""
    for a, logprobs in zip(advantages, rollout_logprobs, strict=True):
        assert a.shape == logprobs.shape, (a.shape, logprobs.shape)
    flat = np.concatenate([np.empty(0), *advantages])
    logprobs = np.concatenate([np.empty(0), *rollout_logprobs])
    counted = ~np.isnan(flat)
    product = np.full(len(flat), np.nan)
    if counted.any():
        kept_logprobs, kept = logprobs[counted], flat[counted]
        product[counted] = (kept_logprobs - kept_logprobs.mean()) * (kept - kept.mean())
    return product, int(counted.sum())


def _quota(fraction: float, num_counted: int) -> int:
    return min(num_counted, max(1, int(fraction * num_counted)))


def _split(chosen: np.ndarray, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    lengths = [len(part) for part in like]
    flags = np.zeros(sum(lengths), dtype=bool)
    flags[chosen] = True
    return np.split(flags, np.cumsum(lengths)[:-1]) if lengths else []
