"""Loss, KL and entropy add up per token, by hand."""

import math

import pytest
import torch

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import PolicyLossInputs, ReinforceConfig
from rlpost.training.objective import Objective

INPUTS = PolicyLossInputs(
    policy_logprobs_R=torch.tensor([-1.0, -2.0], dtype=torch.float64),
    anchor_logprobs_R=torch.tensor([-1.0, -2.0], dtype=torch.float64),
    advantages_R=torch.tensor([1.0, -0.5], dtype=torch.float64),
    sequence_R=torch.tensor([0, 0]),
    entropy_R=torch.tensor([2.0, 4.0], dtype=torch.float64),
)
REF = torch.tensor([-1.5, -2.0], dtype=torch.float64)


def values(**kwargs) -> list[float]:
    objective = Objective(loss=ReinforceConfig(), **kwargs)
    return objective.per_token(INPUTS, ref_logprobs_R=REF).values_R.tolist()


def test_terms_add_up():
    k3 = math.exp(-0.5) - 1 + 0.5
    assert values(kl=KLConfig()) == pytest.approx([1.0, -1.0])
    assert values(kl=KLConfig(coefficient=0.1)) == pytest.approx([1.0 + 0.1 * k3, -1.0])
    assert values(kl=KLConfig(), entropy_coefficient=0.01) == pytest.approx([0.98, -1.04])


def test_reference_is_needed_only_for_a_kl_term():
    plain = Objective(loss=ReinforceConfig(), kl=KLConfig())
    assert not plain.needs_reference
    assert plain.per_token(INPUTS, ref_logprobs_R=None).values_R.shape == (2,)
    with pytest.raises(AssertionError, match="reference"):
        Objective(loss=ReinforceConfig(), kl=KLConfig(coefficient=0.1)).per_token(
            INPUTS, ref_logprobs_R=None
        )
