"""From tokens to pairs: which tokens enter, what is measured, and what the split changes."""

import math

import torch

from rlpost.algorithms.loss import LossBatch, Outputs
from rlpost.algorithms.preference import PreferenceObjective


def test_dpo_is_log_2_where_the_policy_is_the_reference():
    logprobs_R = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    batch = LossBatch(
        item_R=torch.tensor([0, 0, 1]), unit_I=torch.tensor([0, 0]), num_items=2, num_units=1,
        columns={"weight_U": torch.ones(1), "ref_logprobs_R": logprobs_R.detach()},
    )  # fmt: skip
    loss = PreferenceObjective()(Outputs(scores_R=logprobs_R), batch)
    total = loss.total(batch)
    assert math.isclose(total.item(), math.log(2))
    total.backward()
    assert torch.allclose(logprobs_R.grad, torch.tensor([-0.05, -0.05, 0.05]))
    assert loss.diagnostics_U.means["rewards/accuracies"].tolist() == [0.5]
