"""Losses of written tokens by hand, by finite differences and by laws."""

import math

import pytest
import torch

from rlpost.algorithms.loss import LossBatch, Outputs
from rlpost.algorithms.supervised import (
    DFTConfig,
    LikelihoodConfig,
    LikelihoodObjective,
    losses,
)

TARGET_R = torch.tensor([2, 0, 1])


def batch(**columns):
    columns = {"weight_R": torch.tensor([0.5, 0.0, 0.5]), **columns}
    return LossBatch(
        item_R=torch.tensor([0, 0, 1]), unit_I=torch.tensor([0, 1]), num_items=2, num_units=2,
        columns=columns,
    )  # fmt: skip


def outputs(logits_RV):
    log_RV = logits_RV.log_softmax(-1)
    return Outputs(
        scores_R=log_RV.gather(1, TARGET_R[:, None]).squeeze(1),
        entropy_R=-(log_RV.exp() * log_RV).sum(-1),
        is_top_R=log_RV.argmax(-1) == TARGET_R,
    )


@pytest.fixture
def logits_RV():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("config", "by_hand"),
    [(LikelihoodConfig(), [math.log(2), math.log(10)]),
     (DFTConfig(), [math.log(2) / 2, math.log(10) / 10])],
)  # fmt: skip
def test_values_by_hand(config, by_hand):
    logprobs_R = torch.tensor([0.5, 0.1], dtype=torch.float64).log()
    values_R = losses.get(config.kind).target(logprobs_R, config)
    torch.testing.assert_close(values_R, torch.tensor(by_hand, dtype=torch.float64))


# What each loss descends: its own value, but for the factor of DFT, which is a constant.
DESCENDED = {"nll": lambda p: -p.log(), "dft": lambda p: -p}


@pytest.mark.parametrize("kind", sorted(DESCENDED))
def test_gradients_are_those_of_finite_differences(kind, logits_RV):
    config = losses.get(kind).config()
    leaf = logits_RV.clone().requires_grad_()
    losses.get(kind).target(outputs(leaf).scores_R, config).sum().backward()
    for place in range(logits_RV.numel()):
        values = []
        for step in (1e-6, -1e-6):
            moved = logits_RV.clone()
            moved.view(-1)[place] += step
            values.append(DESCENDED[kind](outputs(moved).scores_R.exp()).sum().item())
        difference = (values[0] - values[1]) / 2e-6
        assert leaf.grad.view(-1)[place].item() == pytest.approx(difference, abs=1e-8)


def test_every_registered_loss_is_checked():
    assert {entry.name for entry in losses} == set(DESCENDED)


def test_what_is_measured_are_means_over_trained_tokens(logits_RV):
    said = outputs(logits_RV)
    result = LikelihoodObjective(loss=DFTConfig(), metrics="sft")(said, batch())
    means = result.diagnostics_R.means
    assert set(means) == {"sft/nll", "sft/entropy", "sft/token_accuracy"}
    torch.testing.assert_close(means["sft/nll"], -said.scores_R)  # in nats, whatever the loss is
    assert means["sft/token_accuracy"].tolist() == said.is_top_R.tolist()


def test_the_kl_to_the_start_is_zero_at_the_start_and_pulls_back_elsewhere(logits_RV):
    objective = LikelihoodObjective(kl_coefficient=2.0)
    assert objective.columns == ("weight_R", "ref_logprobs_R")
    plain = LikelihoodObjective()
    for shift, is_zero in ((0.0, True), (0.3, False)):
        leaf = logits_RV.clone().requires_grad_()
        said = outputs(leaf)
        columns = batch(ref_logprobs_R=(said.scores_R - shift).detach())
        added = objective(said, columns).values_R - plain(said, columns).values_R
        expected = 2.0 * (math.exp(-shift) - 1 + shift)
        assert added[[0, 2]].tolist() == pytest.approx([expected] * 2, abs=1e-12)
        (gradient,) = torch.autograd.grad(added[[0, 2]].sum(), leaf)
        # d k3 / d log p = 1 - exp(-shift): towards the start where the policy has left it.
        slope = 2.0 * (1 - math.exp(-shift))
        (own,) = torch.autograd.grad(outputs(leaf).scores_R[[0, 2]].sum(), leaf)
        torch.testing.assert_close(gradient, slope * own)
        assert bool((gradient == 0).all()) is is_zero


def test_a_masked_token_may_hold_anything(logits_RV):
    columns = batch(ref_logprobs_R=torch.tensor([-1.0, math.inf, -1.0], dtype=torch.float64))
    result = LikelihoodObjective(kl_coefficient=1.0)(outputs(logits_RV), columns)
    assert math.isfinite(result.total(columns))
