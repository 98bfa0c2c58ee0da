"""Raw rewards -> the rewards an estimator sees, and which groups are worth training on.

Owns reward clipping, the penalty for overlong responses, whitening, and the decision of
dynamic sampling. Refuses to own statistics of raw rewards (advantages/base.py: they are
taken before shaping) and the loop that draws replacements. Invariant: a missing reward
(NaN) stays missing and takes part in nothing; the input is not written to.

Legend: P prompts, G group.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlpost.algorithms.advantages.base import GroupStatistics, whiten
from rlpost.bounds import number, option
from rlpost.errors import UserError


@dataclass(kw_only=True)
class ShapingConfig:
    """Changes to the verifiers' reward; all off by default."""

    clip_min: float | None = number(
        None,
        at_least=-1e9,
        at_most=1e9,
        hint="null turns it off",
        help="rewards below this are raised to it; null: none",
    )
    clip_max: float | None = number(
        None,
        at_least=-1e9,
        at_most=1e9,
        hint="null turns it off",
        help="rewards above this are cut to it; null: none",
    )
    overlong_buffer: int = number(
        0,
        at_least=0,
        at_most=10**7,
        hint="DAPO uses 4096 of 20480 tokens",
        help="how many of the last tokens before rollout.max_tokens cost; 0: none",
    )
    overlong_penalty: float = number(
        1.0,
        above=0,
        at_most=1e6,
        hint="it is subtracted; DAPO uses 1.0",
        help="what a response of rollout.max_tokens loses; less within the buffer",
    )
    whiten: bool = option(False, help="give the rewards of the batch mean 0 and deviation 1")

    def check(self, path: str) -> None:
        """Raises UserError: the clip leaves nothing, or a field has no effect."""
        low, high = self.clip_min, self.clip_max
        if low is not None and high is not None and low >= high:
            raise UserError(
                f"{path}.clip_min must be below {path}.clip_max={high}, got {low}: every reward "
                "would be the same"
            )
        if self.overlong_buffer == 0 and self.overlong_penalty != 1.0:
            raise UserError(
                f"{path}.overlong_penalty={self.overlong_penalty} has no effect with "
                f"{path}.overlong_buffer=0; set the buffer, in tokens"
            )


def shape_rewards(
    rewards_PG: Tensor, *, lengths_PG: Tensor, max_tokens: int, config: ShapingConfig
) -> Tensor:
    """Clip, then add the overlong penalty, then whiten; NaN stays NaN.

    The penalty comes after the clip, so the clip cannot swallow it.

    Args:
        rewards_PG: raw rewards.
        lengths_PG: sampled tokens; a phrase that was written into a response costs nothing.
        max_tokens: the response limit, where the penalty reaches its full size.
    """
    if config.clip_min is not None or config.clip_max is not None:
        rewards_PG = rewards_PG.clamp(config.clip_min, config.clip_max)
    if config.overlong_buffer:
        rewards_PG = rewards_PG + overlong_penalty(
            lengths_PG,
            max_tokens=max_tokens,
            buffer=config.overlong_buffer,
            penalty=config.overlong_penalty,
        )
    if config.whiten:
        rewards_PG = whiten(rewards_PG, counts_PGL=torch.ones_like(rewards_PG))
    return rewards_PG


def overlong_penalty(lengths_PG: Tensor, *, max_tokens: int, buffer: int, penalty: float) -> Tensor:
    """Return what a response's length costs, 0 or below, float64.

    0 up to ``max_tokens - buffer``, then linear down to ``-penalty`` at ``max_tokens`` and
    beyond (soft overlong punishment, DAPO, arXiv 2503.14476, eq. 13).
    """
    excess_PG = (lengths_PG - (max_tokens - buffer)).double()
    return -penalty * (excess_PG / buffer).clamp(0, 1)


@dataclass(kw_only=True)
class DynamicSamplingConfig:
    """Replace groups without a gradient by newly sampled ones, DAPO, arXiv 2503.14476."""

    enabled: bool = option(False, help="replace groups whose responses all earned the same")
    # A policy that fails everything would sample for ever.
    max_rounds: int = number(
        3,
        at_least=1,
        at_most=1000,
        help="a step draws at most so many times its prompts, then trains on what it has",
    )

    def check(self, path: str) -> None:
        """Raises UserError: no group would ever be replaced."""
        if self.enabled and self.max_rounds == 1:
            raise UserError(
                f"{path}.max_rounds=1 with {path}.enabled=true never draws a replacement; use "
                "2 or more"
            )


def keep_groups(statistics: GroupStatistics) -> Tensor:
    """Return which groups to keep, bool (P,): those whose raw rewards differ.

    ``statistics`` are of *raw* rewards (accuracy), before shaping: with a length penalty, a group
    in which every response (or none) is right would seem to have a gradient.
    """
    return ~statistics.zero_variance_P & ~statistics.too_few_P
