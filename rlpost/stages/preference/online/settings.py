"""The options of online preference learning, and the rules of both modes that concern them.

Owns what pairs of samples need. Refuses to own what every stage has that learns from samples
(sampling/online_settings.py) and the losses.
"""

from dataclasses import dataclass, field
from typing import Any

from rlpost.algorithms.preference import JudgedInputs
from rlpost.bounds import number
from rlpost.control.failures import FailureConfig
from rlpost.errors import UserError
from rlpost.stages.sampling.online_settings import (
    ONLINE,
    SampledOptions,
    check_online_data,
    check_samples,
    refuse_masked_overage,
)


@dataclass(kw_only=True)
class PairingConfig:
    """How groups without a pair are replaced."""

    max_rounds: int = number(
        3,
        at_least=1,
        at_most=1000,
        help="a step draws at most so many times its prompts to find a pair for each",
    )


@dataclass(kw_only=True)
class OnlineOptions(SampledOptions):
    """What is sampled, how far it may lag, who judges it and how pairs are found."""

    pairing: PairingConfig = field(default_factory=PairingConfig)


def check_online(cfg: Any) -> None:
    """Refuse settings of ``data.online=true`` that cannot work.

    Args:
        cfg: a ``PreferenceConfig``, each part checked by itself.

    Raises:
        UserError: names the field, its value, the rule and the way out.
    """
    check_online_data(cfg)
    if cfg.loss.inputs is JudgedInputs:
        raise UserError(
            f"loss={cfg.loss.kind} learns from single judged completions, and {ONLINE} makes "
            "pairs; use loss=dpo or another loss of pairs"
        )
    if cfg.rollout.group_size < 2:
        raise UserError(
            "rollout.group_size must be at least 2 to find a better and a worse response, got "
            f"{cfg.rollout.group_size}; 8 is usual"
        )
    refuse_masked_overage(cfg, why="a preference compares whole responses")
    if cfg.failures.idle_steps != FailureConfig().idle_steps:
        raise UserError(
            f"failures.idle_steps={cfg.failures.idle_steps} has no effect with {ONLINE}, where a "
            "step without any pair ends the run; set pairing.max_rounds, or leave it out"
        )
    if not cfg.all_verifiers and not cfg.reward_models:
        raise UserError(
            f"{ONLINE} needs somebody who judges responses: a verifier with verifier=KIND, for "
            "example verifier=math, or a reward model with +reward_models.NAME.path=PATH"
        )
    check_samples(cfg)
