"""What a correction receives and returns, their registry and their product.

Owns weights and masks of the policy loss. Refuses to own the loss, denominators and the
metrics of the mismatch itself (mismatch.py). Invariants: a weight carries no gradient; the
weights of all stages are multiplied, so their order does not matter; denominators are those
before masking, so dropping a token does not scale up the others; where the policies agree
every weight is 1.

Legend: R sampled tokens of one micro-batch, I responses. A stage is
``stage(inputs, config) -> Correction``; rho = anchor / rollout per token, which is 1
everywhere unless the anchor was recomputed: stages that read it set ``needs_proximal``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlpost.algorithms.diagnostics import Diagnostics
from rlpost.algorithms.losses.base import PolicyLossInputs
from rlpost.algorithms.ratio import bounded_log_ratio
from rlpost.algorithms.sequences import of_items, sequence_any
from rlpost.registry import Registry

corrections = Registry("correction")


class CorrectionConfig:
    """What set-up must know about a correction: class constants, not options in YAML.

    A config dataclass inherits these defaults and overrides those that differ.
    """

    needs_proximal: ClassVar[bool] = True  # reads rho
    weighs: ClassVar[bool] = False  # multiplies by rho itself; a mask does not

    use: ClassVar[str]  # when to choose it: one sentence for docs/algorithms.md
    watch: ClassVar[str]  # which metric or hazard to watch: one sentence, also for the docs


@dataclass(frozen=True, kw_only=True)
class Correction:
    """Detached weight of each token's policy loss, (R,): 0 drops the token, 1 changes nothing."""

    weight_R: Tensor
    diagnostics: Diagnostics
    diagnostics_I: Diagnostics = field(default_factory=Diagnostics)  # one value per response


def correct(inputs: PolicyLossInputs, stages: Iterable[Any]) -> Correction:
    """Multiply the weights of all stages (config dataclasses; their ``kind`` names the stage).

    Reports the final weights as ``correction/weight/...``, the tokens of weight 0 under verl's
    ``rollout_corr/rollout_rs_masked_fraction``, and the responses of which no token is left as
    ``rollout_corr/masked_sequence_fraction``.
    """
    weight_R = torch.ones_like(inputs.policy_logprobs_R, requires_grad=False)
    means: dict[str, Tensor] = {}
    maxima: dict[str, Tensor] = {}
    for config in stages:
        stage = corrections.get(config.kind).target(inputs, config)
        weight_R = weight_R * stage.weight_R
        means |= stage.diagnostics.means
        maxima |= stage.diagnostics.maxima
    means |= {
        "rollout_corr/rollout_rs_masked_fraction": weight_R == 0,
        "correction/weight/mean": weight_R,
    }
    diagnostics = Diagnostics(
        means=means,
        maxima=maxima | {"correction/weight/max": weight_R},
        effective_sizes={"correction/weight/eff_sample_size": weight_R},
    )
    left_R = sequence_any(weight_R != 0, item_R=inputs.item_R, counted_R=inputs.counted_R)
    left_I = of_items(left_R, item_R=inputs.item_R, num_items=inputs.num_items)
    return Correction(
        weight_R=weight_R,
        diagnostics=diagnostics,
        diagnostics_I=Diagnostics(means={"rollout_corr/masked_sequence_fraction": ~left_I}),
    )


def log_rho(inputs: PolicyLossInputs) -> Tensor:
    """log(anchor / rollout) per token (R,), bounded and detached; 0 where they are one policy."""
    return bounded_log_ratio(inputs.anchor_logprobs_R, inputs.rollout_logprobs_R).detach()


def mask(name: str, kept_R: Tensor, like_R: Tensor) -> Correction:
    """Return the correction with weight 1 for kept tokens and 0 for the others."""
    means = {f"correction/{name}/masked_fraction": ~kept_R}
    return Correction(weight_R=kept_R.to(like_R.dtype), diagnostics=Diagnostics(means=means))
