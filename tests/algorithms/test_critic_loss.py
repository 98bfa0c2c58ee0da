"""The value loss by hand, against per-token Python, and its gradient."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlpost.algorithms.critic_loss import CriticLossConfig, CriticLossInputs, critic_loss
from rlpost.algorithms.diagnostics import Tally
from rlpost.bounds import check_config
from rlpost.errors import UserError

UNCLIPPED = CriticLossConfig(clip=None)


def inputs_of(values, old, returns):
    def as_tensor(x):
        return x if isinstance(x, torch.Tensor) else torch.tensor(x, dtype=torch.float64)

    return CriticLossInputs(
        values_R=as_tensor(values), rollout_values_R=as_tensor(old), returns_R=as_tensor(returns)
    )


def reference(value, old, target, clip):
    loss = 0.5 * (value - target) ** 2
    if clip is None:
        return loss
    bounded = min(max(value, old - clip), old + clip)
    return max(loss, 0.5 * (bounded - target) ** 2)


def test_loss_by_hand():
    # Old value 0, return 1, clip 0.5. Unmoved; moved 0.4; moved 0.8 towards the return, which
    # counts as 0.5; moved 0.8 away, which counts in full.
    result = critic_loss(inputs_of([0.0, 0.4, 0.8, -0.8], [0.0] * 4, [1.0] * 4), CriticLossConfig())
    assert result.values_R.tolist() == pytest.approx([0.5, 0.18, 0.125, 1.62])
    means = result.diagnostics_R.means
    assert means["critic/vf_clipfrac"].tolist() == [False, False, True, False]
    assert torch.equal(means["critic/vf_loss"], result.values_R)


@pytest.mark.parametrize("config", [CriticLossConfig(), CriticLossConfig(clip=0.2), UNCLIPPED])
@given(
    tokens=st.lists(st.tuples(*[st.floats(-3, 3)] * 3), min_size=1, max_size=8),
)
def test_loss_equals_per_token_reference(config, tokens):
    values, old, returns = map(list, zip(*tokens, strict=True))
    result = critic_loss(inputs_of(values, old, returns), config).values_R.tolist()
    expected = [reference(*token, config.clip) for token in tokens]
    assert result == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("config", [CriticLossConfig(), UNCLIPPED])
def test_gradient_by_finite_differences(config):
    values = torch.tensor([0.0, 0.4, 0.8, -0.8], dtype=torch.float64, requires_grad=True)
    zeros, ones = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: critic_loss(inputs_of(x, zeros, ones), config).values_R, (values,)
    )


def test_a_value_that_has_moved_enough_has_no_gradient():
    values = torch.tensor([0.8, -0.8], dtype=torch.float64, requires_grad=True)
    critic_loss(
        inputs_of(values, [0.0, 0.0], [1.0, 1.0]), CriticLossConfig()
    ).values_R.sum().backward()
    assert values.grad.tolist() == pytest.approx([0.0, -1.8])


def test_without_a_move_the_clip_changes_nothing():
    values, returns = [0.3, -2.0], [1.0, 5.0]
    inputs = inputs_of(values, values, returns)
    clipped, plain = critic_loss(inputs, CriticLossConfig()), critic_loss(inputs, UNCLIPPED)
    assert torch.equal(clipped.values_R, plain.values_R)


def test_explained_variance_is_of_the_values_before_the_update():
    tally = Tally()
    inputs = inputs_of(
        torch.tensor([9.0, -9.0, 3.0], requires_grad=True), [1.0, 2.0, 4.0], [1.0, 2.0, 4.0]
    )
    diagnostics = critic_loss(inputs, CriticLossConfig()).diagnostics_R
    assert not any(tensor.requires_grad for tensor in diagnostics.means.values())
    tally.add(diagnostics, counted_R=torch.ones(3, dtype=torch.bool))
    assert tally.metrics()["critic/vf_explained_var"] == pytest.approx(1)


def test_a_masked_batch_is_safe():
    values = torch.tensor([1e20, 0.0], requires_grad=True)
    result = critic_loss(inputs_of(values, torch.zeros(2), torch.zeros(2)), CriticLossConfig())
    counted_R = torch.tensor([False, True])
    tally = Tally()
    tally.add(result.diagnostics_R, counted_R=counted_R)
    assert tally.metrics()["critic/vf_loss"] == 0
    assert "critic/vf_explained_var" not in tally.metrics()
    torch.where(counted_R, result.values_R, 0.0).sum().backward()
    assert values.grad.tolist() == [0, 0]


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf])
def test_clip_must_be_positive(clip):
    with pytest.raises(UserError, match=r"critic\.loss\.clip must be in \(0, "):
        check_config(CriticLossConfig(clip=clip), "critic.loss")


def test_usual_settings_pass():
    check_config(CriticLossConfig(), "critic.loss")
    check_config(UNCLIPPED, "critic.loss")
