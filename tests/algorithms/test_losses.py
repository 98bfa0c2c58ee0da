"""Policy losses against per-token Python, finite differences and on-policy laws."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlpost.algorithms.losses import (
    ClipConfig,
    PolicyLossInputs,
    ReinforceConfig,
    clip,
    losses,
    reinforce,
)
from rlpost.errors import UserError

DUAL = ClipConfig(clip_low=0.2, clip_high=0.28, dual_clip=3.0)


def make_inputs(policy, anchor, advantages, **more):
    def as_tensor(values):
        return (
            values
            if isinstance(values, torch.Tensor)
            else torch.tensor(values, dtype=torch.float64)
        )

    return PolicyLossInputs(
        policy_logprobs_R=as_tensor(policy),
        anchor_logprobs_R=as_tensor(anchor),
        advantages_R=as_tensor(advantages),
        sequence_R=torch.zeros(len(advantages), dtype=torch.int64),
        **more,
    )


def clip_reference(policy, anchor, advantage, config):
    ratio = math.exp(policy - anchor)
    clipped = min(max(ratio, 1 - config.clip_low), 1 + config.clip_high)
    loss = -min(ratio * advantage, clipped * advantage)
    if config.dual_clip is not None and advantage < 0:
        loss = min(loss, -config.dual_clip * advantage)
    return loss


def test_clip_by_hand():
    ratios = [1.0, 1.5, 1.5, 0.5, 0.5, 4.0]
    advantages = [2.0, 1.0, -1.0, 1.0, -1.0, -1.0]
    policy = [math.log(r) - 1 for r in ratios]
    result = clip(make_inputs(policy, [-1.0] * 6, advantages), DUAL)
    assert result.values_R.tolist() == pytest.approx([-2.0, -1.28, 1.5, -0.5, 0.8, 3.0])
    means = result.diagnostics.means
    assert means["actor/pg_clipfrac"].tolist() == [False, True, False, False, True, False]
    assert means["actor/pg_clipfrac_lower"].tolist() == [False] * 5 + [True]
    assert means["actor/ratio/mean"].tolist() == pytest.approx(ratios)
    assert means["actor/ppo_kl"].tolist() == pytest.approx([-math.log(r) for r in ratios])
    deviation = result.diagnostics.maxima["actor/ratio/max_deviation"]
    assert deviation.tolist() == pytest.approx([0, 0.5, 0.5, 0.5, 0.5, 3])


@pytest.mark.parametrize("config", [ClipConfig(), ClipConfig(clip_high=0.28), DUAL])
@given(
    tokens=st.lists(
        st.tuples(st.floats(-8, 0), st.floats(-8, 0), st.floats(-3, 3)), min_size=1, max_size=8
    )
)
def test_clip_equals_per_token_reference(config, tokens):
    policy, anchor, advantages = map(list, zip(*tokens, strict=True))
    values = clip(make_inputs(policy, anchor, advantages), config).values_R.tolist()
    expected = [clip_reference(*token, config) for token in tokens]
    assert values == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("kind", ["clip", "reinforce"])
def test_gradient_by_finite_differences(kind):
    entry = losses.get(kind)
    config = DUAL if kind == "clip" else entry.config()
    # Every region of the clip, away from its corners: ratios 1, 1.5, 0.5, 4 with both signs.
    log_ratios = torch.tensor([1.0, 1.5, 0.5, 4.0], dtype=torch.float64).log().repeat(2)
    policy = (log_ratios - 1).requires_grad_()
    anchor = torch.full((8,), -1.0, dtype=torch.float64)
    advantages = torch.tensor([1.0] * 4 + [-1.0] * 4, dtype=torch.float64)

    def loss(policy):
        return entry.target(make_inputs(policy, anchor, advantages), config).values_R

    assert torch.autograd.gradcheck(loss, (policy,))


def gradient(kind_loss, config, anchor_shift):
    generator = torch.Generator().manual_seed(0)
    policy = -torch.rand(50, generator=generator, dtype=torch.float64).requires_grad_()
    policy.retain_grad()
    advantages = torch.randn(50, generator=generator, dtype=torch.float64)
    result = kind_loss(make_inputs(policy, policy.detach() + anchor_shift, advantages), config)
    result.values_R.sum().backward()
    return policy.grad, result


def test_on_policy_clip_has_the_reinforce_gradient():
    clip_gradient, result = gradient(clip, DUAL, 0.0)
    reinforce_gradient, _ = gradient(reinforce, ReinforceConfig(), 0.0)
    assert torch.allclose(clip_gradient, reinforce_gradient, atol=1e-12)
    assert result.diagnostics.maxima["actor/ratio/max_deviation"].max() == 0
    assert not result.diagnostics.means["actor/pg_clipfrac"].any()
    # Negative control: off-policy the two differ.
    off_policy, _ = gradient(clip, DUAL, 0.5)
    assert not torch.allclose(off_policy, reinforce_gradient, atol=1e-2)


@pytest.mark.parametrize("kind", ["clip", "reinforce"])
def test_a_masked_batch_is_safe(kind):
    """Extreme tokens of weight 0 (dummies, masked ones) must not turn the loss into nan."""
    entry = losses.get(kind)
    policy = torch.tensor([-1e4, 0.0], dtype=torch.float32, requires_grad=True)
    anchor, advantages = torch.tensor([0.0, -1e4]), torch.zeros(2)
    values = entry.target(make_inputs(policy, anchor, advantages), entry.config()).values_R
    loss = (torch.zeros(2) * values).sum()
    loss.backward()
    assert loss.item() == 0
    assert policy.grad.tolist() == [0, 0]


def test_diagnostics_carry_no_gradient_and_entropy_is_reported_when_given():
    policy = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    entropy = torch.tensor([0.5, 0.7], dtype=torch.float64, requires_grad=True)
    for kind in ("clip", "reinforce"):
        entry = losses.get(kind)
        inputs = make_inputs(policy, [0.0, 0.0], [1.0, 1.0], entropy_R=entropy)
        diagnostics = entry.target(inputs, entry.config()).diagnostics
        tensors = [*diagnostics.means.values(), *diagnostics.maxima.values()]
        assert not any(tensor.requires_grad for tensor in tensors)
        assert torch.equal(diagnostics.means["actor/entropy"], entropy.detach())
    without = clip(make_inputs(policy, [0.0, 0.0], [1.0, 1.0]), ClipConfig())
    assert "actor/entropy" not in without.diagnostics.means


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ClipConfig(clip_low=2.0), r"loss\.clip_low must be in \(0, 1\), got 2\.0; DAPO uses 0\.2"),
        (ClipConfig(clip_low=0.0), r"loss\.clip_low must be in \(0, 1\)"),
        (ClipConfig(clip_low=math.nan), r"loss\.clip_low"),
        (ClipConfig(clip_high=-0.1), r"loss\.clip_high must be positive"),
        (ClipConfig(dual_clip=1.0), r"loss\.dual_clip must be above 1"),
    ],
)
def test_settings_out_of_range_say_so(config, message):
    with pytest.raises(UserError, match=message):
        config.check()


def test_usual_settings_pass():
    for config in (ClipConfig(), DUAL, ClipConfig(clip_high=5.0), ReinforceConfig()):
        config.check()
