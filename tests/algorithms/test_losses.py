"""Policy losses against plain Python, finite differences and the laws they promise."""

import math
from dataclasses import replace

import loss_references as ref
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlpost.algorithms.losses import ClipConfig, PolicyLossInputs, ReinforceConfig, clip, losses
from rlpost.algorithms.losses.covariance import ClipCovConfig, KLCovConfig
from rlpost.algorithms.losses.plain import NLLConfig
from rlpost.algorithms.losses.sequence import GMPOConfig, GSPOConfig
from rlpost.algorithms.losses.weighted import (
    ROLLOUT_RATIO,
    AIPOConfig,
    CISPOConfig,
    DPPOConfig,
    SAPOConfig,
)
from rlpost.algorithms.reduce import Aggregation, ReductionConfig
from rlpost.bounds import check_config
from rlpost.errors import UserError

DUAL = ClipConfig(clip_low=0.2, clip_high=0.28, dual_clip=3.0)
# The defaults, and numbers that put tokens on both sides of every bound.
CONFIGS = [
    ClipConfig(),
    DUAL,
    ReinforceConfig(),
    NLLConfig(),
    NLLConfig(keep_above=None),
    GSPOConfig(),
    GSPOConfig(clip_low=0.2, clip_high=0.3),
    GMPOConfig(),
    GMPOConfig(log_clip_low=0.1, log_clip_high=0.2),
    CISPOConfig(),
    CISPOConfig(clip_high=0.1),
    AIPOConfig(),
    AIPOConfig(max_weight=1.1),
    DPPOConfig(),
    DPPOConfig(max_increase=0.02, max_decrease=0.1, log_ratio_penalty=0.5),
    SAPOConfig(),
    SAPOConfig(tau_positive=0.7, tau_negative=3.0),
    ClipCovConfig(),
    KLCovConfig(),
]
SEQUENCE_MEAN = ReductionConfig(aggregation=Aggregation.sequence_mean)


def label(config):
    changed = [str(v) for k, v in vars(config).items() if v != getattr(type(config)(), k)]
    return "-".join([config.kind, *changed])


every_config = pytest.mark.parametrize("config", CONFIGS, ids=label)


def evaluate(inputs, config):
    return losses.get(config.kind).target(inputs, config)


def weighted_sum(inputs, weights, config):
    """The loss of one micro-batch and its gradient, as a trainer computes them."""
    values_R = evaluate(inputs, config).values_R
    loss = (torch.tensor(np.concatenate(weights)) * values_R).sum()
    (gradient_R,) = torch.autograd.grad(loss, inputs.policy_logprobs_R)
    return loss.item(), gradient_R.numpy()


def reference_sum(responses, weights, config):
    return sum(
        float(w) * v
        for response, row in zip(responses, weights, strict=True)
        for w, v in zip(row, ref.LOSSES[config.kind](response, config), strict=True)
        if w
    )


def finite_differences(responses, function, step=1e-6):
    """Gradient of ``function(responses)`` over the policy of every counted token."""

    def moved(s, t, by):
        changed = [list(response) for response in responses]
        changed[s][t] = replace(changed[s][t], policy=changed[s][t].policy + by)
        return function(changed)

    return np.array(
        [
            (moved(s, t, step) - moved(s, t, -step)) / (2 * step) if token.counted else 0.0
            for s, response in enumerate(responses)
            for t, token in enumerate(response)
        ]
    )


def test_every_registered_loss_has_a_reference_and_is_tested():
    names = {entry.name for entry in losses}
    assert names == set(ref.LOSSES)
    assert names == {config.kind for config in CONFIGS}
    for entry in losses:
        assert entry.config().kind == entry.name
        check_config(entry.config(), "loss")


@every_config
@pytest.mark.parametrize("seed", range(6))
def test_values_equal_the_reference(config, seed):
    responses = ref.random_responses(seed, token_advantages=seed % 2 == 1)
    values = evaluate(ref.tensors(responses), config).values_R.tolist()
    expected = [
        v for response in responses for v in ref.LOSSES[config.kind](clean(response), config)
    ]
    counted = [t.counted for response in responses for t in response]
    for value, wanted, counts in zip(values, expected, counted, strict=True):
        assert math.isfinite(value)
        if counts:
            assert value == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def clean(response):
    """Plain exp() overflows on garbage, which the reference need not survive."""
    return [t if t.counted else replace(t, policy=-1, frozen=-1, anchor=-1) for t in response]


@every_config
@pytest.mark.parametrize("seed", range(4))
def test_gradient_by_finite_differences(config, seed):
    responses = ref.random_responses(seed, token_advantages=seed % 2 == 1)
    weights = ref.weights(responses, SEQUENCE_MEAN)
    _, gradient = weighted_sum(ref.tensors(responses), weights, config)
    expected = finite_differences(
        [clean(response) for response in responses],
        lambda moved: reference_sum(moved, weights, config),
    )
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)
    # Negative control: the check sees a gradient that is a thousandth off.
    if np.abs(expected).max() > 1e-3:
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(gradient * 1.001, expected, rtol=1e-6, atol=1e-8)


@every_config
@pytest.mark.parametrize("seed", range(3))
def test_on_policy_the_gradient_is_reinforces(config, seed):
    responses = ref.on_policy(ref.random_responses(seed, token_advantages=True, masked=0))
    weights = ref.weights(responses, SEQUENCE_MEAN)
    _, gradient = weighted_sum(ref.tensors(responses), weights, config)
    _, expected = weighted_sum(ref.tensors(responses), weights, ReinforceConfig())
    promised = not isinstance(config, NLLConfig)  # it imitates; also the negative control
    assert np.allclose(gradient, expected, atol=1e-12) == promised
    result = evaluate(ref.tensors(responses), config)
    assert result.diagnostics_R.maxima["actor/ratio/max_deviation"].max() == 0
    clipped = result.diagnostics_R.means.get("actor/pg_clipfrac", torch.zeros(1))
    assert not clipped.any()


@pytest.mark.parametrize(
    "config", [c for c in CONFIGS if c.kind not in ("reinforce", "nll")], ids=label
)
def test_off_policy_the_gradient_is_not_reinforces(config):
    """Negative control of the law above."""
    responses = ref.random_responses(1)
    weights = ref.weights(responses)
    _, gradient = weighted_sum(ref.tensors(responses), weights, config)
    _, reinforces = weighted_sum(ref.tensors(responses), weights, ReinforceConfig())
    assert not np.allclose(gradient, reinforces, atol=1e-3)


@every_config
@pytest.mark.parametrize("aggregation", [Aggregation.token_mean, Aggregation.sequence_mean])
def test_any_split_of_responses_gives_the_same_loss_and_gradient(config, aggregation):
    responses = ref.random_responses(7)
    weights = ref.weights(responses, ReductionConfig(aggregation=aggregation))
    whole_loss, whole_gradient = weighted_sum(ref.tensors(responses), weights, config)
    for split in ([[0, 1], [2, 3, 4]], [[3], [4, 0], [1, 2]], [[4], [3], [2], [1], [0]]):
        total, gradients = 0.0, [np.empty(0)] * len(responses)
        for part in split:
            chosen = [responses[s] for s in part]
            loss, gradient = weighted_sum(ref.tensors(chosen), [weights[s] for s in part], config)
            total += loss
            cuts = np.cumsum([len(response) for response in chosen])[:-1]
            for s, piece in zip(part, np.split(gradient, cuts), strict=True):
                gradients[s] = piece
        assert total == pytest.approx(whole_loss, rel=1e-12)
        np.testing.assert_allclose(np.concatenate(gradients), whole_gradient, atol=1e-14)


@every_config
def test_a_local_mean_depends_on_the_split(config):
    """Negative control of the law above: what a trainer that averages micro-batches does."""
    responses = ref.random_responses(7)

    def mean_of_means(split):
        means = []
        for part in split:
            inputs = ref.tensors([responses[s] for s in part])
            means.append(evaluate(inputs, config).values_R[inputs.counted_R].mean().item())
        return np.mean(means)

    one, two = mean_of_means([[0, 1, 2, 3, 4]]), mean_of_means([[0], [1, 2, 3, 4]])
    assert one != pytest.approx(two, rel=1e-3)


@pytest.mark.parametrize("kind", ["gspo", "gmpo"])
def test_responses_must_not_be_split(kind):
    """Why packing keeps responses whole."""
    config = losses.get(kind).config()
    responses = ref.random_responses(2, masked=0)
    response = max(responses, key=len)
    parts = [response[:1], response[1:]]
    together = evaluate(ref.tensors([response]), config).values_R
    apart = [evaluate(ref.tensors([part]), config).values_R for part in parts]
    assert not torch.allclose(together, torch.cat(apart))


@pytest.mark.parametrize("config", [c for c in CONFIGS if c.kind in ("gspo", "gmpo")], ids=label)
def test_token_values_add_up_to_the_objective_of_responses(config):
    """Value and gradient of the paper's mean over responses, with no stop-gradient in it."""

    def per_response(response):
        counted = [t for t in response if t.counted]
        if not counted:
            return 0.0
        a = counted[0].advantage
        logs = [t.policy - t.anchor for t in counted]
        if config.kind == "gspo":
            s = math.exp(sum(logs) / len(logs))
            return -min(s * a, min(max(s, 1 - config.clip_low), 1 + config.clip_high) * a)
        if a >= 0:
            logs = [min(x, config.log_clip_high) for x in logs]
        else:
            logs = [max(x, -config.log_clip_low) for x in logs]
        return -math.exp(sum(logs) / len(logs)) * a

    def objective(responses):
        alive = sum(any(t.counted for t in response) for response in responses)
        return sum(map(per_response, responses)) / alive

    for seed in range(4):
        responses = ref.random_responses(seed)
        loss, gradient = weighted_sum(
            ref.tensors(responses), ref.weights(responses, SEQUENCE_MEAN), config
        )
        assert loss == pytest.approx(objective(responses), rel=1e-9)
        expected = finite_differences(responses, objective)
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)


@every_config
def test_masked_tokens_change_nothing(config):
    """Other garbage under the mask, or none at all: same loss, same gradient elsewhere."""
    responses = ref.random_responses(11)
    kept = [[t for t in response if t.counted] for response in responses]
    other = [
        [t if t.counted else replace(t, policy=-3, anchor=-7, advantage=9, rollout=-0.1)
         for t in response]
        for response in responses
    ]  # fmt: skip
    loss, gradient = weighted_sum(ref.tensors(responses), ref.weights(responses), config)
    counted = np.array([t.counted for response in responses for t in response])
    assert (gradient[~counted] == 0).all()
    for variant in (kept, other):
        again, its_gradient = weighted_sum(ref.tensors(variant), ref.weights(variant), config)
        assert again == pytest.approx(loss, rel=1e-12)
        its_counted = np.array([t.counted for response in variant for t in response])
        np.testing.assert_allclose(its_gradient[its_counted], gradient[counted], atol=1e-14)


@every_config
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_all_masked_batch_is_safe(config, dtype):
    """Extreme tokens of weight 0 (dummies, masked ones) must not turn the loss into nan."""
    policy = torch.tensor([ref.GARBAGE, 0.0, -1e4, -1.0], dtype=dtype, requires_grad=True)
    inputs = PolicyLossInputs(
        policy_logprobs_R=policy,
        anchor_logprobs_R=torch.tensor([0.0, ref.GARBAGE, 0.0, -1.0], dtype=dtype),
        advantages_R=torch.tensor([0.0, 0.0, -2.0, 3.0], dtype=dtype),
        item_R=torch.tensor([0, 0, 0, 1]),
        counted_R=torch.zeros(4, dtype=torch.bool),
        selected_R=torch.tensor([True, False, True, False]),
    )
    loss = (torch.zeros(4, dtype=dtype) * evaluate(inputs, config).values_R).sum()
    loss.backward()
    assert loss.item() == 0
    assert policy.grad.tolist() == [0] * 4


@every_config
def test_an_empty_batch_is_safe(config):
    empty = torch.zeros(0, dtype=torch.float64)
    inputs = PolicyLossInputs(
        policy_logprobs_R=empty.clone().requires_grad_(),
        anchor_logprobs_R=empty,
        advantages_R=empty,
        item_R=torch.zeros(0, dtype=torch.int64),
        selected_R=torch.zeros(0, dtype=torch.bool),
    )
    assert evaluate(inputs, config).values_R.shape == (0,)


@every_config
def test_the_order_of_tokens_means_nothing(config):
    inputs = ref.tensors(ref.random_responses(3))
    order = torch.randperm(len(inputs.advantages_R), generator=torch.Generator().manual_seed(0))
    shuffled = PolicyLossInputs(
        **{k: v[order] if isinstance(v, torch.Tensor) else v for k, v in vars(inputs).items()}
    )
    straight = evaluate(inputs, config).values_R[order]
    assert torch.allclose(evaluate(shuffled, config).values_R, straight, atol=1e-12)


@every_config
def test_diagnostics_carry_no_gradient_and_entropy_is_reported_when_given(config):
    inputs = ref.tensors(ref.random_responses(0))
    assert "actor/entropy" not in evaluate(inputs, config).diagnostics_R.means
    entropy = torch.ones_like(inputs.advantages_R).requires_grad_()
    diagnostics = evaluate(replace(inputs, entropy_R=entropy), config).diagnostics_R
    tensors = [*diagnostics.means.values(), *diagnostics.maxima.values()]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert all(tensor.shape == entropy.shape for tensor in tensors)
    assert torch.equal(diagnostics.means["actor/entropy"], entropy.detach())
    assert {"actor/ppo_kl", "actor/ratio/mean"} <= set(diagnostics.means)


def simple_inputs(policy, anchor, advantages, rollout=None):
    def tensor(x):
        return torch.tensor(x, dtype=torch.float64)

    return PolicyLossInputs(
        policy_logprobs_R=tensor(policy).requires_grad_(),
        anchor_logprobs_R=tensor(anchor),
        rollout_logprobs_R=None if rollout is None else tensor(rollout),
        advantages_R=tensor(advantages),
        item_R=torch.zeros(len(advantages), dtype=torch.int64),
    )


def test_absent_inputs_mean_the_sampler_is_the_anchor_and_all_tokens_count():
    inputs = simple_inputs([-1.0], [-2.0], [1.0])
    assert inputs.rollout_logprobs_R is inputs.anchor_logprobs_R
    assert inputs.counted_R.tolist() == [True]


def test_clip_by_hand():
    ratios = [1.0, 1.5, 1.5, 0.5, 0.5, 4.0]
    advantages = [2.0, 1.0, -1.0, 1.0, -1.0, -1.0]
    policy = [math.log(r) - 1 for r in ratios]
    result = clip(simple_inputs(policy, [-1.0] * 6, advantages), DUAL)
    assert result.values_R.tolist() == pytest.approx([-2.0, -1.28, 1.5, -0.5, 0.8, 3.0])
    means = result.diagnostics_R.means
    assert means["actor/pg_clipfrac"].tolist() == [False, True, False, False, True, False]
    assert means["actor/pg_clipfrac_lower"].tolist() == [False] * 5 + [True]
    assert means["actor/ratio/mean"].tolist() == pytest.approx(ratios)
    assert means["actor/ppo_kl"].tolist() == pytest.approx([-math.log(r) for r in ratios])
    deviation = result.diagnostics_R.maxima["actor/ratio/max_deviation"]
    assert deviation.tolist() == pytest.approx([0, 0.5, 0.5, 0.5, 0.5, 3])


@pytest.mark.parametrize("config", [ClipConfig(), ClipConfig(clip_high=0.28), DUAL])
@given(
    tokens=st.lists(
        st.tuples(st.floats(-8, 0), st.floats(-8, 0), st.floats(-3, 3)), min_size=1, max_size=8
    )
)
def test_clip_equals_the_reference_anywhere(config, tokens):
    policy, anchor, advantages = map(list, zip(*tokens, strict=True))
    response = [
        ref.Token(policy=p, frozen=p, anchor=a, rollout=a, advantage=d) for p, a, d in tokens
    ]
    values = clip(simple_inputs(policy, anchor, advantages), config).values_R.tolist()
    assert values == pytest.approx(ref.clip(response, config), rel=1e-6, abs=1e-6)


def gradient_of(config, inputs):
    loss = evaluate(inputs, config).values_R.sum()
    return torch.autograd.grad(loss, inputs.policy_logprobs_R)[0].tolist()


def test_cispo_bounds_the_weight_at_one_plus_clip_high():
    """A bound at clip_high itself would scale every on-policy gradient by it."""
    inputs = simple_inputs([-1.0, math.log(3.0) - 2], [-1.0, -2.0], [1.0, 1.0])
    assert gradient_of(CISPOConfig(clip_high=0.2), inputs) == pytest.approx([-1.0, -1.2])


def test_ratio_to_the_rollout_where_the_paper_says_so():
    """The anchor's log-prob moves every other loss, and not these."""
    for config in CONFIGS:
        near = simple_inputs([-1.0], [-1.1], [1.0], rollout=[-1.3])
        far = simple_inputs([-1.0], [-1.2], [1.0], rollout=[-1.3])
        if config.kind in ("reinforce", "nll", "clip_cov", "kl_cov"):
            continue
        if isinstance(config, ROLLOUT_RATIO):
            assert gradient_of(config, near) == gradient_of(config, far)
    assert {c.kind for c in CONFIGS if isinstance(c, ROLLOUT_RATIO)} == {"aipo", "dppo"}


def test_dppo_masks_only_steps_that_lead_further_out():
    probabilities = [0.5, 0.5, 0.1, 0.1, 0.002]
    rollout = [0.2, 0.2, 0.4, 0.4, 0.0001]
    advantages = [1.0, -1.0, 1.0, -1.0, 1.0]
    inputs = simple_inputs(
        np.log(probabilities), np.log(rollout), advantages, rollout=np.log(rollout)
    )
    result = evaluate(inputs, DPPOConfig(log_ratio_penalty=0.0))
    masked = result.diagnostics_R.means["actor/pg_clipfrac"].tolist()
    assert masked == [True, False, False, True, False]  # a ratio of 20 at a rare token is kept
    assert result.values_R.tolist() == pytest.approx([0, 2.5, -0.25, 0, -20])


def test_sapo_has_slope_one_at_ratio_one_and_fades():
    inputs = simple_inputs([-1.0, -1.0], [-1.0, -1.0 - math.log(6)], [1.0, 1.0])
    on_policy, far = gradient_of(SAPOConfig(), inputs)
    assert on_policy == pytest.approx(-1.0)
    assert far == pytest.approx(-6 * 4 * math.exp(-5) / (1 + math.exp(-5)) ** 2)


def test_nll_keeps_what_is_better_than_the_bound():
    inputs = simple_inputs([-1.0, -2.0, -3.0], [-1.0] * 3, [0.5, 0.0, -1.0])
    assert gradient_of(NLLConfig(), inputs) == [-1, 0, 0]
    assert gradient_of(NLLConfig(keep_above=None), inputs) == [-1, -1, -1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ClipConfig(clip_low=2.0), r"loss\.clip_low must be in \(0, 1\), got 2\.0; DAPO uses 0\.2"),
        (ClipConfig(clip_low=0.0), r"loss\.clip_low must be in \(0, 1\)"),
        (ClipConfig(clip_low=math.nan), r"loss\.clip_low"),
        (ClipConfig(clip_high=-0.1), r"loss\.clip_high must be in \(0, "),
        (ClipConfig(dual_clip=1.0), r"loss\.dual_clip must be in \(1, "),
        (GSPOConfig(clip_low=1.0), r"loss\.clip_low must be in \(0, 1\), got 1\.0; GSPO uses 3e-4"),
        (GSPOConfig(clip_high=math.inf), r"loss\.clip_high must be in \(0, "),
        (GMPOConfig(log_clip_low=-0.4), r"loss\.log_clip_low must be in \(0, "),
        (GMPOConfig(log_clip_high=math.nan), r"loss\.log_clip_high must be in \(0, "),
        (CISPOConfig(clip_high=0.0), r"loss\.clip_high must be in \(0, .*offset above 1"),
        (AIPOConfig(max_weight=0.5), r"loss\.max_weight must be in \[1, "),
        (DPPOConfig(max_increase=1.5), r"loss\.max_increase must be in \(0, 1\]"),
        (DPPOConfig(max_decrease=0.0), r"loss\.max_decrease must be in \(0, 1\]"),
        (DPPOConfig(log_ratio_penalty=-1.0), r"loss\.log_ratio_penalty must be in \[0, "),
        (SAPOConfig(tau_positive=0.0), r"loss\.tau_positive must be in \(0, .*1\.0"),
        (SAPOConfig(tau_negative=-1.0), r"loss\.tau_negative must be in \(0, .*1\.05"),
        (NLLConfig(keep_above=math.nan), r"loss\.keep_above must be in \["),
        (ClipCovConfig(fraction=0.0), r"loss\.fraction must be in \(0, 1\).*2e-4"),
        (ClipCovConfig(covariance_low=6.0), r"loss\.covariance_low must be below"),
        (ClipCovConfig(clip_high=0.0), r"loss\.clip_high must be in \(0, "),
        (KLCovConfig(fraction=1.0), r"loss\.fraction must be in \(0, 1\)"),
        (KLCovConfig(coefficient=0.0), r"loss\.coefficient must be in \(0, "),
    ],
)
def test_settings_out_of_range_say_so(config, message):
    with pytest.raises(UserError, match=message):
        check_config(config, "loss")


@every_config
def test_usual_settings_pass(config):
    check_config(config, "loss")
    check_config(ClipConfig(clip_high=5.0), "loss")
