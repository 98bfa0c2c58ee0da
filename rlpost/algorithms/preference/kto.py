"""KTO: responses that are good or bad by themselves, without a partner.

Legend: see inputs.py. ``D`` is log(pi / pi_ref) of a response, ``z`` the reference point.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from rlpost.algorithms.preference.inputs import (
    JudgedInputs,
    PreferenceLossConfig,
    preference_losses,
)
from rlpost.bounds import number


@dataclass(kw_only=True)
class KTOConfig(PreferenceLossConfig):
    """Kahneman-Tversky optimisation, arXiv 2402.01306."""

    inputs: ClassVar[type] = JudgedInputs
    needs_kl: ClassVar[bool] = True

    use: ClassVar[str] = (
        "Judged single responses, such as thumbs up and down; also unbalanced ones."
    )
    watch: ClassVar[str] = (
        "`preference/kl`: where it grows, the gradient of good responses fades; keep (weight * "
        "number) of good over bad between 1 and 1.5 with the two weights."
    )

    kind: str = "kto"
    desirable_weight: float = number(
        1.0, above=0, at_most=1000, hint="1 is usual", help="weight of good responses"
    )
    undesirable_weight: float = number(
        1.0, above=0, at_most=1000, hint="1 is usual", help="weight of bad responses"
    )


@preference_losses.register("kto", KTOConfig)
def kto(x: JudgedInputs, config: KTOConfig) -> Tensor:
    """w_good (1 - sigma(beta (D - z))), or w_bad (1 - sigma(beta (z - D))). It starts at w / 2."""
    ahead_U = config.beta * (x.logratio_U - x.kl_U)
    good_U = config.desirable_weight * torch.sigmoid(-ahead_U)
    bad_U = config.undesirable_weight * torch.sigmoid(ahead_U)
    return torch.where(x.is_good_U, good_U, bad_U)


def reference_point(policy_N: Sequence[float], ref_N: Sequence[float]) -> float:
    """Return z of an optimizer batch: max(0, mean of log(pi / pi_ref)) of mismatched responses.

    Args:
        policy_N: the policy's log-probs of responses that answer another row's prompt, in nats,
            summed over tokens; of the whole optimizer batch, at least one.
        ref_N: the reference's.
    """
    assert len(policy_N) == len(ref_N) > 0, (len(policy_N), len(ref_N))
    differences_N = np.asarray(policy_N, np.float64) - np.asarray(ref_N, np.float64)
    return max(0.0, float(differences_N.mean()))
